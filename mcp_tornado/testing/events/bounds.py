"""The bounds of the events of a session: number, bytes and age."""

from __future__ import annotations

from mcp_tornado.testing.base import KEY, OTHER, MakeSession, OpenStore
from mcp_tornado.testing.clock import FakeClock
from mcp_tornado.testing.events.base import EventLogFixtures, fill, numbers


class BoundsContract(EventLogFixtures):
    """The newest events within the bounds are kept, and always the newest one."""

    async def test_a_session_keeps_the_newest_events_up_to_the_number(self, bounded: OpenStore) -> None:
        log = await bounded(max_per_session=3)
        ids = await fill(log, 10)
        assert await numbers(log) == [8, 9, 10]
        assert await numbers(log, ids[8]) == [10]
        assert await numbers(log, stream="get", limit=2) == [8, 9]

    async def test_reading_after_an_evicted_event_goes_on_at_the_oldest_kept(self, bounded: OpenStore) -> None:
        log = await bounded(max_per_session=3)
        ids = await fill(log, 10)
        for evicted in ids[:7]:
            assert await numbers(log, evicted) == [8, 9, 10]
        assert await numbers(log, ids[7]) == [9, 10]

    async def test_a_session_keeps_the_newest_events_up_to_the_bytes(self, bounded: OpenStore) -> None:
        log = await bounded(max_bytes=1000)
        for number in range(20):
            await log.append(KEY, "get", {"n": number, "filling": "x" * 300})
        assert await numbers(log) == [17, 18, 19]
        await log.append(KEY, "get", {"n": 20, "filling": "x" * 700})
        assert await numbers(log) == [20]
        for number in range(21, 24):
            await log.append(KEY, "get", {"n": number, "filling": "x" * 300})
        assert await numbers(log) == [21, 22, 23]

    async def test_the_size_of_an_event_counts_bytes_and_not_characters(self, bounded: OpenStore) -> None:
        log = await bounded(max_bytes=1000)
        for number in range(3):
            await log.append(KEY, "get", {"n": number, "filling": "ä" * 250})
        assert await numbers(log) == [2]

    async def test_the_bounds_are_for_all_streams_of_a_session_together(self, bounded: OpenStore) -> None:
        log = await bounded(max_per_session=3)
        for number in range(1, 11):
            await log.append(KEY, f"stream-{number % 4}", {"n": number})
        assert await numbers(log) == [8, 9, 10]
        log = await bounded(key=OTHER, max_bytes=1000)
        for number in range(1, 11):
            await log.append(OTHER, f"stream-{number % 4}", {"n": number, "filling": "x" * 300})
        assert await numbers(log, key=OTHER) == [8, 9, 10]

    async def test_a_session_keeps_events_up_to_their_age(self, bounded: OpenStore, clock: FakeClock) -> None:
        log = await bounded(ttl_seconds=60)
        ids = await fill(log, 2)
        clock.advance(30)
        await log.append(KEY, "get", {"n": 3})
        clock.advance(30)
        assert await numbers(log) == [1, 2, 3]
        clock.advance(microseconds=1)
        assert await numbers(log) == [3], "also without an append"
        assert await numbers(log, ids[0]) == [3]

    async def test_ages_are_not_rounded_to_seconds(self, bounded: OpenStore, clock: FakeClock) -> None:
        log = await bounded(ttl_seconds=1.5)
        await fill(log, 2)
        clock.advance(1.499999)
        assert await numbers(log) == [1, 2]
        clock.advance(0.1)
        assert await numbers(log) == [2]

    async def test_the_newest_event_is_always_kept(self, bounded: OpenStore, clock: FakeClock) -> None:
        log = await bounded(max_per_session=1, max_bytes=1, ttl_seconds=1)
        await log.append(KEY, "get", {"n": 1})
        await log.append(KEY, "get", {"n": 2})
        clock.advance(1000)
        assert await numbers(log) == [2]

    async def test_event_ids_go_on_increasing_whatever_is_evicted(self, bounded: OpenStore, clock: FakeClock) -> None:
        log = await bounded(max_per_session=2, ttl_seconds=10)
        ids: list[str] = []
        for number in range(20):
            ids.append(await log.append(KEY, "get", {"n": number}))
            clock.advance(7)
        assert ids == sorted(set(ids))

    async def test_the_bounds_are_for_each_session_by_itself(
        self, bounded: OpenStore, make_session: MakeSession
    ) -> None:
        log = await bounded(max_per_session=3)
        await log.create(make_session(key=OTHER))
        await fill(log, 3, key=OTHER)
        await fill(log, 10)
        assert await numbers(log, key=OTHER) == [1, 2, 3]

    async def test_the_bounds_are_for_processes_too(self, bounded: OpenStore) -> None:
        log = await bounded(max_per_session=3)
        await fill(log, 10, key="@p")
        assert await numbers(log, key="@p") == [8, 9, 10]
