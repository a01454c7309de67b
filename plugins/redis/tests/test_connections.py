"""The connections of a store: their number, TLS, timeouts, and that closing and cancelling leave none behind."""

from __future__ import annotations

import asyncio
import ssl

import psutil
import pytest
from mcp_tornado_redis import redis_store

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

KEY = "key-0001"


async def test_operations_wait_for_a_connection_when_all_are_in_use(server, client, clock, make_session):
    async with redis_store(f"{server.url}?max_connections=2", {}, clock) as store:
        await asyncio.gather(*(store.create(make_session(f"key-{number}")) for number in range(200)))
        assert await store.count() == 200
        connections = [each for each in client.client_list() if each["id"] != str(client.client_id())]
        assert len(connections) <= 3, "two for operations and one that subscribes"


async def test_connections_over_tls_share_one_tls_context(tls_server, clock, make_session, monkeypatch):
    with tls_server.client() as client:
        client.ping()
        created, create = [], ssl.create_default_context
        monkeypatch.setattr(ssl, "create_default_context", lambda: created.append(1) or create())
        async with redis_store(tls_server.url, {}, clock) as store:
            await asyncio.gather(*(store.create(make_session(f"key-{number}")) for number in range(50)))
            assert await store.count() == 50
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            assert await store.wait("@p", None, 1000) is True, "the subscription is restored"
    assert len(created) == 1


async def test_cancelled_operations_release_their_connections(server, clock, make_session, step_loop):
    async with redis_store(f"{server.url}?max_connections=2", {}, clock) as store:
        await store.create(make_session())
        for iterations in range(15):
            tasks = [asyncio.create_task(store.get(KEY)) for _ in range(20)]
            await step_loop(iterations)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        sessions = await asyncio.gather(*(store.get(KEY) for _ in range(20)))
        assert sessions == [make_session()] * 20


async def test_the_url_sets_the_timeouts(server, clock, make_session):
    url = f"{server.url}?socket_timeout=0.05&socket_connect_timeout=0.05"
    async with redis_store(url, {}, clock) as store, server.frozen():
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await store.get(KEY)
        with pytest.raises(StoreUnavailable):
            await redis_store(url, {}, clock).__aenter__()


async def test_a_response_has_a_timeout_of_its_own(server, clock):
    url = f"{server.url}?socket_timeout=0.05&socket_connect_timeout=1000"
    async with redis_store(url, {}, clock) as store, server.frozen(), asyncio.timeout(60):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.get(KEY)


async def test_closing_ends_running_operations_when_the_server_does_not_answer(server, clock, make_session, eventually):
    sockets_before = psutil.Process().net_connections()
    store = redis_store(f"{server.url}?max_connections=2&socket_timeout=1000", {}, clock)
    await store.__aenter__()
    await store.create(make_session())
    async with server.frozen(), asyncio.timeout(60):
        running = [asyncio.create_task(store.get(KEY)) for _ in range(5)]
        running.append(asyncio.create_task(store.wait(KEY, None, 1000)))
        client = store._require_open().client
        await eventually(lambda: len(client._running) == len(running), "all operations have begun")
        await store.__aexit__(None, None, None)
        assert psutil.Process().net_connections() == sockets_before
        for error in await asyncio.gather(*running, return_exceptions=True):
            assert isinstance(error, StoreUnavailable)
            assert "closed" in str(error) or "not open" in str(error)


async def test_closing_at_any_step_of_operations_leaves_no_tasks_and_sockets(make_store, step_loop, anyio_backend):
    tasks_before, sockets_before = asyncio.all_tasks(), psutil.Process().net_connections()
    for iterations in range(40):
        store = make_store()
        await store.__aenter__()
        running = [
            asyncio.create_task(call) for _ in range(4) for call in (store.get(KEY), store.append("@p", "s", {}))
        ]
        await step_loop(iterations)
        await store.__aexit__(None, None, None)
        assert psutil.Process().net_connections() == sockets_before
        results = await asyncio.gather(*running, return_exceptions=True)
        assert {type(result) for result in results if isinstance(result, BaseException)} <= {StoreUnavailable}
    assert asyncio.all_tasks() == tasks_before


async def test_closing_right_after_entering_leaves_no_tasks_and_sockets(make_store, anyio_backend):
    tasks_before, sockets_before = asyncio.all_tasks(), psutil.Process().net_connections()
    for _ in range(20):
        async with make_store():
            pass
    assert asyncio.all_tasks() == tasks_before
    assert psutil.Process().net_connections() == sockets_before


async def test_cancelling_at_any_step_of_entering_leaves_no_tasks_and_sockets(make_store, step_loop):
    tasks_before, sockets_before = asyncio.all_tasks(), psutil.Process().net_connections()
    for iterations in range(30):
        entering = asyncio.create_task(make_store().__aenter__())
        await step_loop(iterations)
        entering.cancel()
        (result,) = await asyncio.gather(entering, return_exceptions=True)
        if not isinstance(result, BaseException):
            await result.__aexit__(None, None, None)
    assert asyncio.all_tasks() == tasks_before
    assert psutil.Process().net_connections() == sockets_before
