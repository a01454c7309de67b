"""The ends of streams and of sessions."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado.sessions.errors import SessionGone, StreamEnded
from mcp_tornado.testing.base import KEY, OTHER, EventStore, MakeSession, OpenStore, Pair, deadline, seconds
from mcp_tornado.testing.clock import FakeClock
from mcp_tornado.testing.events.base import EventLogFixtures, fill, numbers


class EndContract(EventLogFixtures):
    """An ended stream takes no events. The events of a session end with the session."""

    async def test_a_stream_ends_with_its_final_event_and_others_go_on(self, logs: Pair) -> None:
        await logs.one.append(KEY, "a", {"n": 1}, final=True)
        for log in logs:
            for final in (False, True):
                with pytest.raises(StreamEnded):
                    await log.append(KEY, "a", {"n": 2}, final=final)
        await logs.two.append(KEY, "b", {"n": 3})
        await logs.two.append(OTHER, "a", {"n": 4})
        assert await numbers(logs.one) == [1, 3]

    async def test_of_many_who_end_a_stream_one_does(self, logs: Pair) -> None:
        results: list[object] = await asyncio.gather(
            *(logs[number % 2].append(KEY, "a", {"n": number}, final=True) for number in range(20)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, StreamEnded) for result in results) == 19
        (number,) = await numbers(logs.one)
        assert isinstance(results[number], str)

    async def test_a_stream_stays_ended_when_its_final_event_has_been_evicted(self, bounded: OpenStore) -> None:
        log = await bounded(max_per_session=5)
        await log.append(KEY, "a", {"n": 0}, final=True)
        await fill(log, 10, stream="b")
        with pytest.raises(StreamEnded):
            await log.append(KEY, "a", {"n": 1})

    async def test_a_stream_stays_ended_when_its_final_event_is_too_old(
        self, bounded: OpenStore, clock: FakeClock
    ) -> None:
        log = await bounded(ttl_seconds=60)
        await log.append(KEY, "a", {"n": 0}, final=True)
        clock.advance(1000)
        await fill(log, 2, stream="b")
        with pytest.raises(StreamEnded):
            await log.append(KEY, "a", {"n": 1})

    async def test_an_unknown_session_takes_no_events(self, store: EventStore) -> None:
        with pytest.raises(SessionGone):
            await store.append("unknown", "get", {})
        assert await store.read("unknown", None) == []

    async def test_a_deleted_session_takes_no_events(self, logs: Pair) -> None:
        await logs.one.append(KEY, "get", {"n": 1})
        await logs.two.delete(KEY)
        for log in logs:
            with pytest.raises(SessionGone):
                await log.append(KEY, "get", {})
            assert await log.read(KEY, None) == []

    async def test_an_expired_session_takes_no_events(self, log: EventStore, clock: FakeClock) -> None:
        clock.advance(99.999999)
        await log.append(KEY, "get", {"n": 1})
        clock.advance(microseconds=1)
        with pytest.raises(SessionGone):
            await log.append(KEY, "get", {})

    async def test_a_touched_session_takes_events_beyond_its_first_expiry(self, logs: Pair, clock: FakeClock) -> None:
        (first, *_) = await fill(logs.one, 3)
        clock.advance(90)
        assert await logs.two.touch(KEY, clock(), clock() + seconds(1000))
        clock.advance(500)
        assert await numbers(logs.one) == [1, 2, 3]
        last = await logs.one.append(KEY, "get", {"n": 4})
        assert await numbers(logs.two, first) == [2, 3, 4]
        assert await logs.one.wait(KEY, last, 0) is False

    async def test_that_a_session_is_gone_is_told_without_its_whole_key(self, store: EventStore) -> None:
        with pytest.raises(SessionGone) as caught:
            await store.append(KEY, "get", {})
        assert KEY not in str(caught.value)

    async def test_deleting_a_session_takes_its_events_along(self, log: EventStore, make_session: MakeSession) -> None:
        await fill(log, 3)
        await log.append(KEY, "a", {"n": 4}, final=True)
        await log.append(OTHER, "get", {"n": 1})
        await log.delete(KEY)
        assert await log.read(KEY, None) == []
        assert await numbers(log, key=OTHER) == [1]
        await log.create(make_session())
        assert await log.read(KEY, None) == [], "also after a new session with the same key is created"
        await log.append(KEY, "a", {"n": 5})
        assert await numbers(log) == [5]

    async def test_a_sweep_takes_the_events_along(
        self, log: EventStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        await log.create(make_session(key="live", lives=1000))
        await fill(log, 3)
        await fill(log, 3, key="live")
        clock.advance(100)
        await log.sweep(clock(), 100)
        assert await log.read(KEY, None) == []
        assert await numbers(log, key="live") == [1, 2, 3]
        await log.create(make_session())
        assert await log.read(KEY, None) == []

    async def test_no_event_outlives_a_session_whose_deletion_races_with_appends(
        self, logs: Pair, make_session: MakeSession
    ) -> None:
        for number in range(20):
            key = f"race-{number:02}-and-so-on"
            await logs.one.create(make_session(key=key))

            async def append(count: int, *, to: str = key) -> None:
                with pytest.raises(SessionGone):  # noqa: PT012  (it is not known which append comes after the deletion)
                    while True:
                        await logs[count % 2].append(to, "get", {"n": count})
                        await asyncio.sleep(0)  # yield to the event loop: a store in memory does not

            async with deadline("the deleted session still takes events"):
                await asyncio.gather(append(0), append(1), logs.two.delete(key))
            assert await logs.one.read(key, None) == await logs.two.read(key, None) == []

    async def test_no_event_outlives_a_session_whose_sweep_races_with_appends(
        self, logs: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        """The clock of the caller of `sweep` may be ahead, so that `append` still finds a live session."""
        for number in range(10):
            key = f"race-{number:02}-and-so-on"
            await logs.one.create(make_session(key=key, lives=5))

            async def append(count: int, *, to: str = key) -> None:
                with pytest.raises(SessionGone):  # noqa: PT012  (it is not known which append comes after the sweep)
                    while True:
                        await logs[count % 2].append(to, "get", {"n": count})
                        await asyncio.sleep(0)  # yield to the event loop: a store in memory does not

            async with deadline("the swept session still takes events"):
                await asyncio.gather(append(0), append(1), logs.two.sweep(clock() + seconds(10), 10))
            assert await logs.one.read(key, None) == await logs.two.read(key, None) == []
