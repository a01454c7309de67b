"""`wait`: a waiting task is woken by events and by ends of sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcp_tornado.sessions.errors import StoreUnavailable
from mcp_tornado.testing import base
from mcp_tornado.testing.base import KEY, OTHER, EventStore, MakeStore, OpenStore, Pair, deadline, let_tasks_start
from mcp_tornado.testing.clock import FakeClock
from mcp_tornado.testing.events.base import VERY_LONG_SECONDS, EventLogFixtures, fill, follow


class WaitContract(EventLogFixtures):
    """`wait` ends when an event is appended, the session ends or the store is closed."""

    async def test_waiting_ends_at_once_when_there_is_something_already(self, logs: Pair) -> None:
        ids = await fill(logs.one, 2)
        async with deadline("`wait` has not ended although there are events"):
            for log in logs:
                assert await log.wait(KEY, None, VERY_LONG_SECONDS) is True
                assert await log.wait(KEY, ids[0], VERY_LONG_SECONDS) is True

    async def test_a_waiter_is_woken_by_an_append(self, log: EventStore) -> None:
        (first,) = await fill(log, 1)
        waiting = [asyncio.ensure_future(log.wait(KEY, first, base.DEADLINE_SECONDS)) for _ in range(3)]
        await let_tasks_start(log)
        await log.append(KEY, "get", {"n": 2})
        assert await asyncio.gather(*waiting) == [True] * 3, "woken before the timeout"

    async def test_a_waiter_is_woken_by_an_append_through_another_store(self, logs: Pair) -> None:
        (first,) = await fill(logs.one, 1)
        for number in range(5):
            waiting = asyncio.ensure_future(logs.one.wait(KEY, first, base.DEADLINE_SECONDS))
            await let_tasks_start(logs.one)
            first = await logs.two.append(KEY, "get", {"n": number})
            assert await waiting is True, "woken before the timeout"

    async def test_a_waiter_is_woken_by_the_first_event_of_all(self, logs: Pair) -> None:
        for key in (KEY, "@p"):
            waiting = asyncio.ensure_future(logs.one.wait(key, None, base.DEADLINE_SECONDS))
            await let_tasks_start(logs.one)
            await logs.two.append(key, "get", {"n": 1})
            assert await waiting is True, "woken before the timeout"

    async def test_a_waiter_sleeps_while_nothing_is_new_for_it(self, log: EventStore) -> None:
        (first,) = await fill(log, 1)
        waiting = asyncio.ensure_future(follow(log, OTHER, 1, limit=10))
        assert await log.wait(KEY, first, 0.01) is False
        assert await log.wait(KEY, first, 0) is False
        await log.append(KEY, "get", {"n": 2})
        await let_tasks_start(log)
        assert not waiting.done()
        await log.append(OTHER, "get", {"n": "other"})
        async with deadline("the follower has not read the event"):
            assert [event.message for event in await waiting] == [{"n": "other"}]

    async def test_waiting_ends_with_false_when_the_time_is_up(self, log: EventStore) -> None:
        (first,) = await fill(log, 1)
        assert await log.wait(KEY, first, 0.01) is False
        assert await log.wait(OTHER, None, 0) is False
        assert await log.wait("@p", None, 0) is False

    async def test_a_waiter_is_woken_when_the_session_is_deleted(self, logs: Pair) -> None:
        (first,) = await fill(logs.one, 1)
        waiting = [
            asyncio.ensure_future(logs.one.wait(KEY, first, base.DEADLINE_SECONDS)),
            asyncio.ensure_future(logs.one.wait(OTHER, None, base.DEADLINE_SECONDS)),
        ]
        await let_tasks_start(logs.one)
        await logs.two.delete(KEY)
        await logs.two.delete(OTHER)
        assert await asyncio.gather(*waiting) == [True, True], "woken before the timeout"

    async def test_a_waiter_is_woken_when_the_session_is_swept(self, logs: Pair, clock: FakeClock) -> None:
        (first,) = await fill(logs.one, 1)
        waiting = asyncio.ensure_future(logs.one.wait(KEY, first, base.DEADLINE_SECONDS))
        await let_tasks_start(logs.one)
        clock.advance(100)
        await logs.two.sweep(clock(), 10)
        assert await waiting is True, "woken before the timeout"

    async def test_waiting_for_a_session_that_is_not_there_ends_at_once(
        self, log: EventStore, clock: FakeClock
    ) -> None:
        async with deadline("`wait` has not ended although no live session has the key"):
            assert await log.wait("unknown", None, VERY_LONG_SECONDS) is True
            clock.advance(100)
            assert await log.wait(KEY, None, VERY_LONG_SECONDS) is True, "the session has expired"

    async def test_waiting_after_an_evicted_event_ends_at_once(self, bounded: OpenStore) -> None:
        log = await bounded(max_per_session=2)
        ids = await fill(log, 5)
        async with deadline("`wait` has not ended although there are events"):
            assert await log.wait(KEY, ids[0], VERY_LONG_SECONDS) is True

    async def test_many_can_wait_at_once_and_be_given_up(self, logs: Pair) -> None:
        (first,) = await fill(logs.one, 1)
        keys = [f"@waiter-{number}" for number in range(200)]
        cancelled = [asyncio.ensure_future(logs.one.wait(key, None, VERY_LONG_SECONDS)) for key in keys]
        waiting = asyncio.ensure_future(logs.one.wait(KEY, first, base.DEADLINE_SECONDS))
        await let_tasks_start(logs.one)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        assert all(task.cancelled() for task in cancelled)
        await logs.two.append(KEY, "get", {"n": 2})
        assert await waiting is True, "woken before the timeout"

    async def test_closing_a_store_ends_the_waiting(self, make_store: MakeStore, anyio_backend: str) -> None:
        store: Any = make_store()
        async with store:
            waiting = asyncio.ensure_future(store.wait("@p", None, VERY_LONG_SECONDS))
            await let_tasks_start(store)
            assert not waiting.done()
        with pytest.raises(StoreUnavailable):
            async with deadline("`wait` has not ended although the store is closed"):
                await waiting
