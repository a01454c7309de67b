"""Appending to a stream while the store is unavailable: each event is in the log once in the end."""

from __future__ import annotations

import pytest

from mcp_tornado.sessions import ErrorCode, SessionError, system_clock
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.streams.append import StreamAppender

pytestmark = pytest.mark.anyio

KEY = "@k"
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
UNAVAILABLE = SessionError(ErrorCode.STORE_UNAVAILABLE)


class FailingStore(MemoryStore):
    """A store whose appends fail before or after they have taken effect, as `failures` says."""

    def __init__(self) -> None:
        super().__init__(system_clock)
        self.failures: list[str] = []

    async def append(self, key, stream, message, *, final=False):
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "before":
            raise UNAVAILABLE
        event_id = await super().append(key, stream, message, final=final)
        if failure == "after":
            raise UNAVAILABLE
        return event_id


async def count_events(store: MemoryStore) -> int:
    return len(await store.read(KEY, None))


@pytest.mark.parametrize("failures", [["before"], ["after"], ["before", "after", "before"]])
@pytest.mark.parametrize("shared", [False, True])
async def test_an_event_is_in_the_log_once_whether_or_not_failed_attempts_took_effect(failures, shared):
    async with FailingStore() as store:
        appender = StreamAppender(store, KEY, "get", shared=shared)
        await appender.append(CHANGED)
        store.failures = list(failures)
        event_id = await appender.append(CHANGED)
        assert [event.id for event in await store.read(KEY, None)][1:] == [event_id]


async def test_an_older_equal_event_of_another_process_does_not_count_as_ours():
    async with FailingStore() as store:
        await store.append(KEY, "get", CHANGED)
        store.failures = ["before"]
        await StreamAppender(store, KEY, "get", shared=True).append(CHANGED)
        assert await count_events(store) == 2


async def test_an_append_without_retries_fails_at_once():
    async with FailingStore() as store:
        store.failures = ["before"]
        with pytest.raises(SessionError):
            await StreamAppender(store, KEY, "get").append(CHANGED, retry_seconds=0)
        assert await count_events(store) == 0
