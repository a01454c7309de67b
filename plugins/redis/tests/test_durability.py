"""What was acknowledged is there after the server was killed: with `appendonly yes` and `appendfsync always`."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from mcp_tornado_redis import redis_store

from mcp_tornado.stores import StoreUnavailable

pytestmark = pytest.mark.anyio

WRITERS = 5
ENOUGH = 100
"""How many acknowledgements each time, before the server is killed."""


async def test_nothing_that_was_acknowledged_is_lost_when_the_server_is_killed(
    start_server, make_session, clock, eventually
):
    server = start_server()
    with server.client() as client:
        assert client.info("persistence")["aof_enabled"] == 1
        assert "always" in str(client.config_get("appendfsync"))
    created, updated, appended, deleted, acknowledged = set(), {}, {}, set(), []

    async def write(store, writer):
        """Write until the server is gone, and note what it acknowledged."""
        key = f"writer-{writer}"
        with contextlib.suppress(StoreUnavailable):
            for number in range(10**6):
                made = f"{key}-{len(acknowledged)}-{number}"
                await store.create(make_session(made, principal=key))
                created.add(made)
                session = await store.get(key)
                await store.update(key, {"state": {"n": number}}, session.revision)
                updated[key] = session.revision + 1
                appended[key] = await store.append(key, "get", {"n": number})
                if number % 3 == 0:
                    created.discard(made)
                    await store.delete(made)
                    deleted.add(made)
                acknowledged.append(made)

    async with redis_store(server.url, {"events": {"max_per_session": 10**6}}, clock) as store:
        for writer in range(WRITERS):
            await store.create(make_session(f"writer-{writer}"))
        for kill in range(1, 4):
            writing = [asyncio.ensure_future(write(store, writer)) for writer in range(WRITERS)]
            await eventually(lambda enough=kill * ENOUGH: len(acknowledged) >= enough)
            server.kill()
            await asyncio.gather(*writing)
            server.start()
            async with asyncio.timeout(60):
                while True:
                    with contextlib.suppress(StoreUnavailable):
                        await store.ping()
                        break

            listed = {session.key for session in await store.page(None, 10**6)}
            assert created <= listed
            assert deleted.isdisjoint(listed)
            assert len(listed) == await store.count()
            for key, revision in updated.items():
                assert (await store.get(key)).revision in (revision, revision + 1)
                events = [event.id for event in await store.read(key, None, limit=10**6)]
                assert appended[key] in events[-2:]
                assert events == sorted(set(events))
