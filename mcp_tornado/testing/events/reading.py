"""`read`: where it starts, and which events it returns."""

from __future__ import annotations

import pytest

from mcp_tornado.sessions.store import EventId
from mcp_tornado.testing.base import KEY, OTHER, EventStore
from mcp_tornado.testing.events.base import EventLogFixtures, fill, numbers


class ReadContract(EventLogFixtures):
    """`read` returns the events after an id, of one stream or of all."""

    async def test_reading_goes_on_after_an_event_and_can_be_repeated(self, log: EventStore) -> None:
        ids = await fill(log, 5)
        assert await numbers(log) == [1, 2, 3, 4, 5]
        assert await numbers(log, ids[1]) == [3, 4, 5]
        assert await numbers(log, ids[1]) == [3, 4, 5]
        assert await numbers(log, ids[3]) == [5]
        assert await numbers(log, ids[4]) == []

    async def test_reading_can_be_limited(self, log: EventStore) -> None:
        ids = await fill(log, 5)
        assert await numbers(log, limit=2) == [1, 2]
        assert await numbers(log, ids[1], limit=2) == [3, 4]
        assert await numbers(log, ids[2], limit=2) == [4, 5]
        assert await numbers(log, limit=5) == await numbers(log, limit=100) == [1, 2, 3, 4, 5]
        assert await numbers(log, limit=0) == []

    async def test_reading_is_limited_to_a_hundred_events_unless_told_otherwise(self, log: EventStore) -> None:
        await fill(log, 101)
        assert await numbers(log) == list(range(1, 101))
        assert await numbers(log, limit=1000) == list(range(1, 102))

    async def test_reading_can_be_of_one_stream(self, log: EventStore) -> None:
        ids = [await log.append(KEY, "ab"[number % 2], {"n": number}) for number in range(8)]
        assert await numbers(log, stream="a") == [0, 2, 4, 6]
        assert await numbers(log, ids[3], stream="a") == [4, 6]
        assert await numbers(log, ids[3], stream="b", limit=1) == [5]
        assert await numbers(log, ids[5], stream="b") == [7]
        assert await numbers(log, stream="c") == []

    async def test_a_limit_counts_the_events_of_the_wanted_stream_only(self, log: EventStore) -> None:
        await fill(log, 10, stream="other")
        await fill(log, 3, stream="wanted")
        await fill(log, 1, stream="other")
        assert await numbers(log, stream="wanted", limit=2) == [1, 2]

    async def test_sessions_do_not_see_each_others_events(self, log: EventStore) -> None:
        await fill(log, 3)
        await log.append(OTHER, "get", {"n": "other"})
        assert await numbers(log) == [1, 2, 3]
        assert await numbers(log, key=OTHER) == ["other"]

    @pytest.mark.parametrize(
        "after",
        ["", "nonsense", "1", "000000000001", "-1.key-0001.get", "x.key-0001.get", "000000000001.key-0001.", "\n"],
    )
    async def test_reading_after_what_is_no_event_id_reads_nothing(self, log: EventStore, after: str) -> None:
        await fill(log, 3)
        assert await log.read(KEY, after) == []

    async def test_reading_after_an_event_of_another_session_reads_nothing(self, log: EventStore) -> None:
        await fill(log, 3)
        others = await fill(log, 3, key=OTHER)
        assert others[0] not in [event.id for event in await log.read(KEY, None)]
        assert await log.read(KEY, others[0]) == []

    async def test_reading_after_an_event_that_never_was_reads_nothing(self, log: EventStore) -> None:
        await fill(log, 3)
        assert await log.read(KEY, str(EventId.of(999, KEY, "get"))) == []
        assert await log.read(KEY, str(EventId.of(10**17, KEY, "get"))) == []

    async def test_a_session_without_events_has_none(self, log: EventStore) -> None:
        assert await log.read(KEY, None) == []
        assert await log.read("unknown", None) == []
