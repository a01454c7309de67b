"""What goes over the wire: once each, over few connections, and again where that does no harm."""

from __future__ import annotations

import asyncio
import ssl
from datetime import timedelta

import psutil
import pytest
from mcp_tornado_redis import redis_store, scripts
from mcp_tornado_redis.scripts import Script

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

KEY, OTHER = "key-0001", "key-0002"


@pytest.fixture
async def proxy(server, make_proxy, anyio_backend):
    async with make_proxy(server.port) as opened:
        yield opened


@pytest.fixture
async def store(proxy, client, clock, make_session):
    """Give a store behind the proxy, with a session that has an event; the server knows all scripts."""
    for script in vars(scripts).values():
        if isinstance(script, Script):
            client.script_load(script.text)
    async with redis_store(proxy.url, {}, clock) as opened:
        await opened.create(make_session())
        await opened.append(KEY, "get", {"n": 1})
        yield opened


WRITES = {
    "create": (1, lambda store, make_session, clock: store.create(make_session(OTHER))),
    "touch": (1, lambda store, make_session, clock: store.touch(KEY, clock(), clock() + timedelta(seconds=200))),
    "update": (2, lambda store, make_session, clock: store.update(KEY, {"state": {"a": 1}}, 0)),
    "delete": (1, lambda store, make_session, clock: store.delete(KEY)),
    "sweep": (1, lambda store, make_session, clock: store.sweep(clock.advance(100), 100)),
    "append": (1, lambda store, make_session, clock: store.append(KEY, "get", {"n": 2})),
    "claim": (1, lambda store, make_session, clock: store.claim("lease", "me", 10)),
    "release": (1, lambda store, make_session, clock: store.release("lease", "me")),
}
READS = {
    "get": (1, lambda store, make_session, clock: store.get(KEY)),
    "count": (1, lambda store, make_session, clock: store.count()),
    "page": (1, lambda store, make_session, clock: store.page(None, 10)),
    "read": (1, lambda store, make_session, clock: store.read(KEY, None)),
    "wait": (1, lambda store, make_session, clock: store.wait(KEY, None, 1000)),
    "ping": (1, lambda store, make_session, clock: store.ping()),
}
NOTHING_TO_DO = {
    "get": (1, lambda store, make_session, clock: store.get("unknown")),
    "update": (1, lambda store, make_session, clock: store.update("unknown", {}, 0)),
    "sweep": (0, lambda store, make_session, clock: store.sweep(clock(), 0)),
    "read": (0, lambda store, make_session, clock: store.read(KEY, "nonsense")),
}


@pytest.mark.parametrize(
    ("round_trips", "operation"),
    [*WRITES.values(), *READS.values(), *NOTHING_TO_DO.values()],
    ids=[*WRITES, *READS, *(f"{name} of nothing" for name in NOTHING_TO_DO)],
)
async def test_an_operation_is_one_round_trip_and_an_update_two(
    store, proxy, make_session, clock, round_trips, operation
):
    before = proxy.requests
    await operation(store, make_session, clock)
    assert proxy.requests - before == round_trips


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("operation", [operation for _, operation in READS.values()], ids=READS)
async def test_a_read_is_repeated_when_the_connection_breaks(store, proxy, make_session, clock, operation, lost):
    expected = await operation(store, make_session, clock)
    before = proxy.requests
    proxy.losses = [lost]
    assert await operation(store, make_session, clock) == expected
    assert proxy.requests - before == 2


async def test_a_read_is_repeated_once(store, proxy):
    before = proxy.requests
    proxy.losses = ["answer"] * 10
    with pytest.raises(StoreUnavailable):
        await store.get(KEY)
    assert proxy.requests - before == 2


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize(("round_trips", "operation"), WRITES.values(), ids=WRITES)
async def test_a_write_is_not_repeated_when_it_may_have_been_made(
    store, proxy, make_session, clock, round_trips, operation, lost
):
    before = proxy.requests
    proxy.losses = [None] * (round_trips - 1) + [lost]
    with pytest.raises(StoreUnavailable):
        await operation(store, make_session, clock)
    assert proxy.requests - before == round_trips


async def test_what_was_done_is_done_once_when_the_answer_is_lost(store, proxy, make_session):
    proxy.losses = ["answer"]
    with pytest.raises(StoreUnavailable):
        await store.create(make_session(OTHER))
    assert await store.get(OTHER) == make_session(OTHER)
    proxy.losses = ["answer"]
    with pytest.raises(StoreUnavailable):
        await store.append(KEY, "get", {"n": 2})
    assert [event.message for event in await store.read(KEY, None)] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("with_reset", [False, True])
async def test_connections_that_were_broken_while_idle_fail_no_operation(
    store, proxy, make_session, clock, eventually, with_reset
):
    await asyncio.gather(*(store.get(KEY) for _ in range(20)))
    ours = psutil.Process()
    port = int(proxy.url.rpartition(":")[2])

    def usable():
        return [
            connection
            for connection in ours.net_connections()
            if connection.raddr and connection.raddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        ]

    assert len(usable()) > 2
    proxy.break_all(with_reset=with_reset)
    await eventually(lambda: len(usable()) == 1)  # the one that listens
    for number in range(20):
        await store.create(make_session(f"later-{number}"))
    assert await store.count() == 21


async def test_more_operations_at_once_than_connections_wait_for_their_turn(server, client, clock, make_session):
    async with redis_store(f"{server.url}?max_connections=2", {}, clock) as store:
        await asyncio.gather(*(store.create(make_session(f"key-{number}")) for number in range(200)))
        assert await store.count() == 200
        mine = [each for each in client.client_list() if each["id"] != str(client.client_id())]
        assert len(mine) <= 3, "two for operations and one that listens"


async def test_connections_over_tls_share_what_takes_long_to_make(tls_server, clock, make_session, monkeypatch):
    with tls_server.client() as client:
        client.ping()
        made, make = [], ssl.create_default_context
        monkeypatch.setattr(ssl, "create_default_context", lambda: made.append(1) or make())
        async with redis_store(tls_server.url, {}, clock) as store:
            await asyncio.gather(*(store.create(make_session(f"key-{number}")) for number in range(50)))
            assert await store.count() == 50
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            assert await store.wait("@p", None, 1000) is True, "it listens again"
    assert len(made) == 1


async def test_operations_given_up_leave_the_connections_to_others(server, clock, make_session):
    async with redis_store(f"{server.url}?max_connections=2", {}, clock) as store:
        await store.create(make_session())
        for turns in range(15):
            tasks = [asyncio.ensure_future(store.get(KEY)) for _ in range(20)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        sessions = await asyncio.gather(*(store.get(KEY) for _ in range(20)))
        assert sessions == [make_session()] * 20


async def test_the_url_sets_the_limits_in_time(server, clock, make_session):
    url = f"{server.url}?socket_timeout=0.05&socket_connect_timeout=0.05"
    async with redis_store(url, {}, clock) as store, server.frozen():
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await store.get(KEY)
        with pytest.raises(StoreUnavailable):
            await redis_store(url, {}, clock).__aenter__()


async def test_an_answer_has_a_limit_of_its_own(server, clock):
    url = f"{server.url}?socket_timeout=0.05&socket_connect_timeout=1000"
    async with redis_store(url, {}, clock) as store, server.frozen(), asyncio.timeout(60):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.get(KEY)


async def test_closing_ends_what_is_under_way_with_a_server_that_does_not_answer(server, clock, make_session):
    sockets_before = psutil.Process().net_connections()
    store = redis_store(f"{server.url}?max_connections=2&socket_timeout=1000", {}, clock)
    await store.__aenter__()
    await store.create(make_session())
    async with server.frozen(), asyncio.timeout(60):
        running = [asyncio.ensure_future(store.get(KEY)) for _ in range(5)]
        running.append(asyncio.ensure_future(store.wait(KEY, None, 1000)))
        for _ in range(20):
            await asyncio.sleep(0)
        await store.__aexit__(None, None, None)
        assert psutil.Process().net_connections() == sockets_before
        for each in await asyncio.gather(*running, return_exceptions=True):
            assert isinstance(each, StoreUnavailable)
            assert "closed" in str(each) or "not open" in str(each)


async def test_closing_leaves_nothing_whatever_is_under_way(make_store, make_session, anyio_backend):
    tasks_before, sockets_before = asyncio.all_tasks(), psutil.Process().net_connections()
    for turns in range(40):
        store = make_store()
        await store.__aenter__()
        running = [
            asyncio.ensure_future(call) for _ in range(4) for call in (store.get(KEY), store.append("@p", "s", {}))
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        await store.__aexit__(None, None, None)
        assert psutil.Process().net_connections() == sockets_before
        ended = await asyncio.gather(*running, return_exceptions=True)
        assert {type(each) for each in ended if isinstance(each, BaseException)} <= {StoreUnavailable}
    assert asyncio.all_tasks() == tasks_before


async def test_a_store_that_is_left_at_once_leaves_nothing(make_store, anyio_backend):
    tasks_before, sockets_before = asyncio.all_tasks(), psutil.Process().net_connections()
    for _ in range(20):
        async with make_store():
            pass
    assert asyncio.all_tasks() == tasks_before
    assert psutil.Process().net_connections() == sockets_before


async def test_entering_that_is_given_up_leaves_nothing(make_store, server):
    tasks_before, sockets_before = asyncio.all_tasks(), psutil.Process().net_connections()
    for turns in range(30):
        entering = asyncio.ensure_future(make_store().__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        entering.cancel()
        (result,) = await asyncio.gather(entering, return_exceptions=True)
        if not isinstance(result, BaseException):
            await result.__aexit__(None, None, None)
    assert asyncio.all_tasks() == tasks_before
    assert psutil.Process().net_connections() == sockets_before


async def test_a_server_that_forgot_the_scripts_is_given_them_again(client, store, make_session):
    client.script_flush()
    await store.create(make_session(OTHER))
    assert await store.count() == 2
