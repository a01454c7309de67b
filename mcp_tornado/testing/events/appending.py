"""`append`: events are stored exactly, in order, with increasing ids."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from mcp_tornado.sessions.store import EventId
from mcp_tornado.testing.base import KEY, OTHER, EventStore, Pair, deadline
from mcp_tornado.testing.events.base import EventLogFixtures, fill, follow, numbers

_WRITERS: Final = 10
_EVENTS_PER_WRITER: Final = 20

MESSAGES: Final[dict[str, Any]] = {
    "a response": {"jsonrpc": "2.0", "id": "x", "result": {"deep": [1, None, 2.5, "ä 🙂", {}]}},
    "names that databases know": {"$set": {"a.b": 1}, "_id": {"": None}},
    "numbers": {"n": [2**53 + 1, 2**64 + 1, 10**30, 1.0, -0.5]},
    "a lone surrogate": {"s": "\ud800 \u0000"},
    "large": {"s": "x" * 500_000},
    "empty": {},
}


class AppendContract(EventLogFixtures):
    """`append` stores every message exactly, in order, and returns increasing ids."""

    async def test_events_come_back_in_order_as_they_were_appended(self, log: EventStore) -> None:
        message = {"jsonrpc": "2.0", "id": "x", "result": {"deep": [1, None, 2.5, "ä"]}}
        priming = await log.append(KEY, "post-1", None)
        middle = await log.append(KEY, "get", message)
        last = await log.append(KEY, "post-1", {"n": 1}, final=True)
        assert [(event.id, event.stream, event.message, event.final) for event in await log.read(KEY, None)] == [
            (priming, "post-1", None, False),
            (middle, "get", message, False),
            (last, "post-1", {"n": 1}, True),
        ]

    @pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
    async def test_a_message_comes_back_exactly(self, log: EventStore, message: dict[str, Any]) -> None:
        await log.append(KEY, "get", message)
        await log.append(KEY, "get", {"n": "next"})
        first, second = await log.read(KEY, None)
        assert first.message == message
        assert repr(first.message) == repr(message)
        assert second.message == {"n": "next"}

    async def test_an_event_id_names_its_stream_and_not_the_whole_key(self, log: EventStore) -> None:
        """The server reads the stream from the id that a client sends to resume it."""
        text = await log.append(KEY, "post-_-Az9", {})
        event_id = EventId.parse(text)
        assert event_id is not None
        assert (event_id.stream, event_id.belongs_to(KEY), event_id.belongs_to(OTHER)) == ("post-_-Az9", True, False)
        assert KEY not in text

    async def test_event_ids_are_never_repeated_and_increase(self, log: EventStore) -> None:
        ids = await fill(log, 30)
        assert len(set(ids)) == 30
        assert ids == sorted(ids)
        assert [event.id for event in await log.read(KEY, None)] == ids

    async def test_event_ids_are_unique_and_followers_see_every_event_once_in_order_under_many_appenders(
        self, logs: Pair
    ) -> None:
        async def append(writer: int) -> list[str]:
            log = logs[writer % 2]
            return [
                await log.append(KEY, f"post-{writer % 3}", {"writer": writer, "n": n})
                for n in range(_EVENTS_PER_WRITER)
            ]

        count = _WRITERS * _EVENTS_PER_WRITER
        async with deadline("the followers have not read all events"):
            one = asyncio.ensure_future(follow(logs.one, KEY, count, limit=7))
            two = asyncio.ensure_future(follow(logs.two, KEY, count, limit=100))
            written = await asyncio.gather(*(append(writer) for writer in range(_WRITERS)))
            read_by_each = await asyncio.gather(one, two)
        ids = [event_id for by_writer in written for event_id in by_writer]
        assert len(set(ids)) == count, "every id is unique"
        assert all(by_writer == sorted(by_writer) for by_writer in written)
        for events in read_by_each:
            assert [event.id for event in events] == sorted(ids), "a follower reads every event, once, in order"
            messages = [event.message for event in events if event.message is not None]
            for writer in range(_WRITERS):
                assert [message["n"] for message in messages if message["writer"] == writer] == list(
                    range(_EVENTS_PER_WRITER)
                )

    async def test_changing_a_message_later_does_not_change_what_is_stored(self, log: EventStore) -> None:
        message: dict[str, Any] = {"n": [1]}
        await log.append(KEY, "get", message)
        message["n"].append(2)
        for _ in range(2):
            (event,) = await log.read(KEY, None)
            assert event.message is not None
            assert event.message == {"n": [1]}
            event.message["n"].append(3)

    async def test_a_message_that_is_no_json_harms_no_other_event(self, log: EventStore) -> None:
        first = await log.append(KEY, "get", {"n": 1})
        with pytest.raises((TypeError, ValueError)):
            await log.append(KEY, "get", {"n": object()})
        assert await numbers(log, first) == []
        second = await log.append(KEY, "get", {"n": 2})
        assert await numbers(log) == [1, 2]
        assert await numbers(log, first) == [2]
        assert await numbers(log, second) == []

    async def test_a_first_message_that_is_no_json_leaves_an_empty_log(self, log: EventStore) -> None:
        with pytest.raises((TypeError, ValueError)):
            await log.append(KEY, "get", {"n": object()}, final=True)
        assert await log.read(KEY, None) == []
        assert await log.wait(KEY, None, 0) is False
        await log.append(KEY, "get", {"n": 1})
        assert await numbers(log) == [1]

    async def test_events_of_one_store_are_seen_by_the_other(self, logs: Pair) -> None:
        ids = [await logs[number % 2].append(KEY, "get", {"n": number}) for number in range(6)]
        assert await numbers(logs.one) == await numbers(logs.two) == [0, 1, 2, 3, 4, 5]
        assert await numbers(logs.two, ids[3]) == [4, 5]
        assert ids == sorted(set(ids))
