"""What is written while the store is away: once, in the end."""

from __future__ import annotations

import pytest

from mcp_tornado.sessions import ErrorCode, SessionError, system_clock
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.streams.append import StreamAppender

pytestmark = pytest.mark.anyio

KEY = "@k"
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
AWAY = SessionError(ErrorCode.STORE_UNAVAILABLE)


class Wavering(MemoryStore):
    """A store whose appends fail, before or after they have taken effect."""

    def __init__(self) -> None:
        super().__init__(system_clock)
        self.failures: list[str] = []

    async def append(self, key, stream, message, *, final=False):
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "before":
            raise AWAY
        event_id = await super().append(key, stream, message, final=final)
        if failure == "after":
            raise AWAY
        return event_id


async def written(store: MemoryStore, key: str = KEY) -> int:
    return len(await store.read(key, None))


@pytest.mark.parametrize("failures", [["before"], ["after"], ["before", "after", "before"]])
@pytest.mark.parametrize("shared", [False, True])
async def test_an_event_is_in_the_log_once_whatever_an_attempt_came_to(failures, shared):
    async with Wavering() as store:
        log = StreamAppender(store, KEY, "get", shared=shared)
        await log.append(CHANGED)
        store.failures = list(failures)
        event_id = await log.append(CHANGED)
        assert [event.id for event in await store.read(KEY, None)][1:] == [event_id]


async def test_an_equal_event_of_another_process_is_not_taken_for_ours():
    async with Wavering() as store:
        await store.append(KEY, "get", CHANGED)
        store.failures = ["before"]
        await StreamAppender(store, KEY, "get", shared=True).append(CHANGED)
        assert await written(store) == 2


async def test_who_does_not_wait_is_told_at_once():
    async with Wavering() as store:
        store.failures = ["before"]
        with pytest.raises(SessionError):
            await StreamAppender(store, KEY, "get").append(CHANGED, seconds=0)
        assert await written(store) == 0
