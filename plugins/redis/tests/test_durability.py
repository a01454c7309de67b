"""Acknowledged writes survive a killed server that has `appendonly yes` and `appendfsync always`."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from mcp_tornado_redis import redis_store

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

WRITERS = 5
ACKNOWLEDGEMENTS = 100
"""Number of acknowledgements before the server is killed, each time."""


async def test_no_acknowledged_write_is_lost_when_the_server_is_killed(
    start_server, make_session, clock, eventually, retry_until_available
):
    server = start_server()
    with server.client() as client:
        assert client.info("persistence")["aof_enabled"] == 1
        assert "always" in str(client.config_get("appendfsync"))
    created, updated, appended, deleted, acknowledged = set(), {}, {}, set(), []

    async def write(store, writer):
        """Write until the server is killed, and record what it acknowledged."""
        key = f"writer-{writer}"
        with contextlib.suppress(StoreUnavailable):
            for number in range(10**6):
                new_key = f"{key}-{len(acknowledged)}-{number}"
                await store.create(make_session(new_key, principal=key))
                created.add(new_key)
                session = await store.get(key)
                await store.update(key, {"state": {"n": number}}, session.revision)
                updated[key] = session.revision + 1
                appended[key] = await store.append(key, "get", {"n": number})
                if number % 3 == 0:
                    created.discard(new_key)
                    await store.delete(new_key)
                    deleted.add(new_key)
                acknowledged.append(new_key)

    async with redis_store(server.url, {"events": {"max_per_session": 10**6}}, clock) as store:
        for writer in range(WRITERS):
            await store.create(make_session(f"writer-{writer}"))
        for kill in range(1, 4):
            writing = [asyncio.create_task(write(store, writer)) for writer in range(WRITERS)]
            await eventually(
                lambda count=kill * ACKNOWLEDGEMENTS, writing=writing: (
                    len(acknowledged) >= count or all(task.done() for task in writing)
                ),
                "the server has acknowledged enough writes",
            )
            assert len(acknowledged) >= kill * ACKNOWLEDGEMENTS, "the writers have ended before the server was killed"
            server.kill()
            await asyncio.gather(*writing)
            server.start()
            await retry_until_available(store.ping)

            listed = {session.key for session in await store.page(None, 10**6)}
            assert created <= listed
            assert deleted.isdisjoint(listed)
            assert len(listed) == await store.count()
            for key, revision in updated.items():
                assert (await store.get(key)).revision in (revision, revision + 1)
                events = [event.id for event in await store.read(key, None, limit=10**6)]
                assert appended[key] in events[-2:]
                assert events == sorted(set(events))
