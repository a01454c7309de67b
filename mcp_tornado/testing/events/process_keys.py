"""The keys of processes, which have events and no session."""

from __future__ import annotations

import pytest

from mcp_tornado.testing.base import EventStore
from mcp_tornado.testing.clock import FakeClock
from mcp_tornado.testing.events.base import EventLogFixtures, fill, numbers


class ProcessKeyContract(EventLogFixtures):
    """A key that begins with `@` is that of a log of the processes: it has events and no session."""

    @pytest.mark.parametrize("key", ["@p", "@process-1", "@a.b", "@host.example:8000", "@"])
    async def test_the_keys_of_processes_need_no_session(self, store: EventStore, clock: FakeClock, key: str) -> None:
        ids = await fill(store, 3, key=key, stream="mailbox")
        clock.advance(1000)
        assert await numbers(store, key=key) == [1, 2, 3]
        assert await numbers(store, ids[0], key=key) == [2, 3]
        assert await store.wait(key, ids[0], 0) is True
        assert await store.wait(key, ids[2], 0) is False

    async def test_the_keys_of_processes_are_no_sessions(self, store: EventStore, clock: FakeClock) -> None:
        await fill(store, 3, key="@p")
        assert (await store.get("@p"), await store.count(), await store.page(None, 10)) == (None, 0, [])
        assert await store.touch("@p", clock(), clock()) is False
        assert await store.update("@p", {"state": {}}, 0) is None
        clock.advance(1000)
        assert await store.sweep(clock(), 100) == 0
        assert await numbers(store, key="@p") == [1, 2, 3]

    async def test_deleting_the_key_of_a_process_removes_its_events(self, store: EventStore) -> None:
        await fill(store, 3, key="@p")
        await fill(store, 1, key="@q")
        assert await store.delete("@p") is False
        assert await store.read("@p", None) == []
        assert await numbers(store, key="@q") == [1]
