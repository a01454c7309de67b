"""The contract of `EventLog` as tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pytest

from mcp_tornado.sessions.errors import SessionGone, StoreUnavailable, StreamEnded
from mcp_tornado.sessions.store import Event, EventId
from mcp_tornado.testing import base
from mcp_tornado.testing.base import (
    KEY,
    OTHER,
    EventStore,
    MakeSession,
    MakeStore,
    OpenStore,
    Pair,
    StoreContract,
    back,
    seconds,
    settle,
)
from mcp_tornado.testing.clock import FakeClock

_LONG: Final = 1_000_000.0
"""Seconds that no test waits for."""
_WRITERS: Final = 10
_EACH: Final = 20

MESSAGES: Final[dict[str, Any]] = {
    "a response": {"jsonrpc": "2.0", "id": "x", "result": {"deep": [1, None, 2.5, "ä 🙂", {}]}},
    "names that databases know": {"$set": {"a.b": 1}, "_id": {"": None}},
    "numbers": {"n": [2**53 + 1, 2**64 + 1, 10**30, 1.0, -0.5]},
    "a lone surrogate": {"s": "\ud800 \u0000"},
    "large": {"s": "x" * 500_000},
    "empty": {},
}

OPERATIONS: Final[dict[str, Callable[[EventStore], Coroutine[Any, Any, Any]]]] = {
    "append": lambda store: store.append("@p", "s", {}),
    "read": lambda store: store.read("@p", None),
    "wait": lambda store: store.wait("@q", None, 0),
    "claim": lambda store: store.claim("lease", "owner", 1),
    "release": lambda store: store.release("lease", "owner"),
}


async def numbers(log: EventStore, after: str | None = None, *, key: str = KEY, **options: Any) -> list[Any]:
    """Return the numbers that `fill` wrote into the events that are read."""
    return [event.message["n"] for event in await log.read(key, after, **options) if event.message is not None]


async def fill(log: EventStore, count: int, *, key: str = KEY, stream: str = "get") -> list[str]:
    """Append events that are numbered from 1 on and return their ids."""
    return [await log.append(key, stream, {"n": number}) for number in range(1, count + 1)]


async def followed(log: EventStore, key: str, count: int, *, limit: int) -> list[Event]:
    """Follow a log as readers do (read, wait, read again) until so many events were seen, and return them."""
    seen: list[Event] = []
    after: str | None = None
    while len(seen) < count:
        events = await log.read(key, after, limit=limit)
        seen += events
        if events:
            after = events[-1].id
        else:
            await log.wait(key, after, base.PATIENCE)
        # Neither need give way, and a reader that is told of an event that it cannot read must not go on for ever.
        await asyncio.sleep(0)
    return seen


class EventLogContract(StoreContract):
    """What every store that keeps events must do; see `StoreContract` for how to subclass it."""

    @pytest.fixture
    async def log(self, store: EventStore, make_session: MakeSession) -> EventStore:
        """A store with two live sessions."""
        await store.create(make_session(key=KEY))
        await store.create(make_session(key=OTHER))
        return store

    @pytest.fixture
    async def logs(self, log: EventStore, pair: Pair) -> Pair:
        """Two stores that see the same two live sessions."""
        return pair

    @pytest.fixture
    def bounded(self, open_store: OpenStore, make_session: MakeSession) -> OpenStore:
        """Open a store with these bounds of events and one live session."""

        async def open_bounded(key: str = KEY, **bounds: Any) -> Any:
            store = await open_store(events=bounds)
            await store.create(make_session(key=key, lives=_LONG))
            return store

        return open_bounded

    # append and read

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
        """The kernel reads the stream from the id that a client sends to resume."""
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
            return [await log.append(KEY, f"post-{writer % 3}", {"writer": writer, "n": n}) for n in range(_EACH)]

        count = _WRITERS * _EACH
        async with asyncio.timeout(base.PATIENCE):
            one = asyncio.ensure_future(followed(logs.one, KEY, count, limit=7))
            two = asyncio.ensure_future(followed(logs.two, KEY, count, limit=100))
            written = await asyncio.gather(*(append(writer) for writer in range(_WRITERS)))
            seen_by_each = await asyncio.gather(one, two)
        ids = [event_id for by_writer in written for event_id in by_writer]
        assert len(set(ids)) == count, "no id is given twice"
        assert all(by_writer == sorted(by_writer) for by_writer in written)
        for seen in seen_by_each:
            assert [event.id for event in seen] == sorted(ids), "a follower sees every event, once, in order"
            messages = [event.message for event in seen if event.message is not None]
            for writer in range(_WRITERS):
                assert [message["n"] for message in messages if message["writer"] == writer] == list(range(_EACH))

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

    # The ends of streams and sessions

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
        (winner,) = await numbers(logs.one)
        assert isinstance(results[winner], str)

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
        assert await log.read(KEY, None) == [], "not even for a new session with the same key"
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
                with pytest.raises(SessionGone):  # noqa: PT012  (which append meets the deletion is not known)
                    while True:
                        await logs[count % 2].append(to, "get", {"n": count})
                        await asyncio.sleep(0)

            async with asyncio.timeout(base.PATIENCE):
                await asyncio.gather(append(0), append(1), logs.two.delete(key))
            assert await logs.one.read(key, None) == await logs.two.read(key, None) == []

    async def test_no_event_outlives_a_session_whose_sweep_races_with_appends(
        self, logs: Pair, make_session: MakeSession, clock: FakeClock
    ) -> None:
        """Whoever sweeps may have a clock that is ahead, so that the session lives still for whoever appends."""
        for number in range(10):
            key = f"race-{number:02}-and-so-on"
            await logs.one.create(make_session(key=key, lives=5))

            async def append(count: int, *, to: str = key) -> None:
                with pytest.raises(SessionGone):  # noqa: PT012  (which append meets the sweep is not known)
                    while True:
                        await logs[count % 2].append(to, "get", {"n": count})
                        await asyncio.sleep(0)

            async with asyncio.timeout(base.PATIENCE):
                await asyncio.gather(append(0), append(1), logs.two.sweep(clock() + seconds(10), 10))
            assert await logs.one.read(key, None) == await logs.two.read(key, None) == []

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

    # wait

    async def test_waiting_ends_at_once_when_there_is_something_already(self, logs: Pair) -> None:
        ids = await fill(logs.one, 2)
        async with asyncio.timeout(base.PATIENCE):
            for log in logs:
                assert await log.wait(KEY, None, _LONG) is True
                assert await log.wait(KEY, ids[0], _LONG) is True

    async def test_a_waiter_is_woken_by_an_append(self, log: EventStore) -> None:
        (first,) = await fill(log, 1)
        waiting = [asyncio.ensure_future(log.wait(KEY, first, base.PATIENCE)) for _ in range(3)]
        await settle(log)
        await log.append(KEY, "get", {"n": 2})
        assert await asyncio.gather(*waiting) == [True] * 3, "woken, not out of time"

    async def test_a_waiter_is_woken_by_an_append_through_another_store(self, logs: Pair) -> None:
        (first,) = await fill(logs.one, 1)
        for number in range(5):
            waiting = asyncio.ensure_future(logs.one.wait(KEY, first, base.PATIENCE))
            await settle(logs.one)
            first = await logs.two.append(KEY, "get", {"n": number})
            assert await waiting is True, "woken, not out of time"

    async def test_a_waiter_is_woken_by_the_first_event_of_all(self, logs: Pair) -> None:
        for key in (KEY, "@p"):
            waiting = asyncio.ensure_future(logs.one.wait(key, None, base.PATIENCE))
            await settle(logs.one)
            await logs.two.append(key, "get", {"n": 1})
            assert await waiting is True, "woken, not out of time"

    async def test_a_waiter_sleeps_while_nothing_is_new_for_it(self, log: EventStore) -> None:
        (first,) = await fill(log, 1)
        waiting = asyncio.ensure_future(followed(log, OTHER, 1, limit=10))
        assert await log.wait(KEY, first, 0.01) is False
        assert await log.wait(KEY, first, 0) is False
        await log.append(KEY, "get", {"n": 2})
        await settle(log)
        assert not waiting.done()
        await log.append(OTHER, "get", {"n": "other"})
        async with asyncio.timeout(base.PATIENCE):
            assert [event.message for event in await waiting] == [{"n": "other"}]

    async def test_waiting_ends_with_false_when_the_time_is_up(self, log: EventStore) -> None:
        (first,) = await fill(log, 1)
        assert await log.wait(KEY, first, 0.01) is False
        assert await log.wait(OTHER, None, 0) is False
        assert await log.wait("@p", None, 0) is False

    async def test_a_waiter_is_woken_when_the_session_is_deleted(self, logs: Pair) -> None:
        (first,) = await fill(logs.one, 1)
        waiting = [
            asyncio.ensure_future(logs.one.wait(KEY, first, base.PATIENCE)),
            asyncio.ensure_future(logs.one.wait(OTHER, None, base.PATIENCE)),
        ]
        await settle(logs.one)
        await logs.two.delete(KEY)
        await logs.two.delete(OTHER)
        assert await asyncio.gather(*waiting) == [True, True], "woken, not out of time"

    async def test_a_waiter_is_woken_when_the_session_is_swept(self, logs: Pair, clock: FakeClock) -> None:
        (first,) = await fill(logs.one, 1)
        waiting = asyncio.ensure_future(logs.one.wait(KEY, first, base.PATIENCE))
        await settle(logs.one)
        clock.advance(100)
        await logs.two.sweep(clock(), 10)
        assert await waiting is True, "woken, not out of time"

    async def test_waiting_for_a_session_that_is_not_there_ends_at_once(
        self, log: EventStore, clock: FakeClock
    ) -> None:
        async with asyncio.timeout(base.PATIENCE):
            assert await log.wait("unknown", None, _LONG) is True
            clock.advance(100)
            assert await log.wait(KEY, None, _LONG) is True, "expired"

    async def test_waiting_after_an_evicted_event_ends_at_once(self, bounded: OpenStore) -> None:
        log = await bounded(max_per_session=2)
        ids = await fill(log, 5)
        async with asyncio.timeout(base.PATIENCE):
            assert await log.wait(KEY, ids[0], _LONG) is True

    async def test_many_can_wait_at_once_and_be_given_up(self, logs: Pair) -> None:
        (first,) = await fill(logs.one, 1)
        keys = [f"@waiter-{number}" for number in range(200)]
        given_up = [asyncio.ensure_future(logs.one.wait(key, None, _LONG)) for key in keys]
        waiting = asyncio.ensure_future(logs.one.wait(KEY, first, base.PATIENCE))
        await settle(logs.one)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        assert all(task.cancelled() for task in given_up)
        await logs.two.append(KEY, "get", {"n": 2})
        assert await waiting is True, "woken, not out of time"

    async def test_closing_a_store_ends_the_waiting(self, make_store: MakeStore, anyio_backend: str) -> None:
        store: Any = make_store()
        async with store:
            waiting = asyncio.ensure_future(store.wait("@p", None, _LONG))
            await settle(store)
            assert not waiting.done()
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(base.PATIENCE):
                await waiting

    # Bounds: in number, in bytes, in age

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
        assert await numbers(log) == [3], "without an append, too"
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

    # Leases

    async def test_a_lease_has_one_owner_who_may_renew_it(self, pair: Pair) -> None:
        assert await pair.one.claim("lease", "me", 10) is True
        assert await pair.two.claim("lease", "you", 10) is False
        assert await pair.two.claim("lease", "me", 10) is True
        assert await pair.one.claim("another lease", "you", 10) is True

    async def test_of_many_who_claim_a_lease_one_gets_it(self, pair: Pair) -> None:
        results = await asyncio.gather(
            *(pair[number % 2].claim("lease", f"owner-{number}", 10) for number in range(20))
        )
        assert results.count(True) == 1

    async def test_of_many_who_claim_a_lease_that_has_ended_one_gets_it(self, pair: Pair, clock: FakeClock) -> None:
        await pair.one.claim("lease", "before", 10)
        clock.advance(10)
        results = await asyncio.gather(
            *(pair[number % 2].claim("lease", f"owner-{number}", 10) for number in range(20))
        )
        assert results.count(True) == 1

    async def test_a_lease_ends_with_its_time_and_not_before(self, pair: Pair, clock: FakeClock) -> None:
        await pair.one.claim("lease", "me", 10)
        clock.advance(9.999999)
        assert await pair.two.claim("lease", "you", 10) is False
        clock.advance(microseconds=1)
        assert await pair.two.claim("lease", "you", 10) is True
        assert await pair.one.claim("lease", "me", 10) is False

    async def test_a_renewed_lease_lasts_from_then_on(self, store: EventStore, clock: FakeClock) -> None:
        await store.claim("lease", "me", 10)
        clock.advance(9)
        await store.claim("lease", "me", 10)
        clock.advance(9)
        assert await store.claim("lease", "you", 10) is False
        clock.advance(1)
        assert await store.claim("lease", "you", 10) is True

    async def test_a_renewed_lease_may_last_less_long_than_before(self, store: EventStore, clock: FakeClock) -> None:
        await store.claim("lease", "me", 1000)
        await store.claim("lease", "me", 1.5)
        clock.advance(1.499999)
        assert await store.claim("lease", "you", 10) is False
        clock.advance(microseconds=1)
        assert await store.claim("lease", "you", 10) is True

    async def test_a_released_lease_is_free(self, pair: Pair) -> None:
        await pair.one.claim("lease", "me", 10)
        await pair.one.release("lease", "me")
        assert await pair.two.claim("lease", "you", 10) is True

    async def test_only_its_owner_can_release_a_lease_and_trying_is_no_error(self, pair: Pair) -> None:
        await pair.one.claim("lease", "me", 10)
        await pair.two.release("lease", "you")
        await pair.two.release("no such lease", "you")
        assert await pair.two.claim("lease", "you", 10) is False

    async def test_who_lost_a_lease_cannot_release_it_for_the_new_owner(
        self, store: EventStore, clock: FakeClock
    ) -> None:
        await store.claim("lease", "me", 10)
        clock.advance(10)
        await store.claim("lease", "you", 10)
        await store.release("lease", "me")
        assert await store.claim("lease", "me", 10) is False

    async def test_a_sweep_leaves_leases_that_last(self, store: EventStore, clock: FakeClock) -> None:
        await store.claim("lease", "me", 10)
        clock.advance(9)
        await store.sweep(clock(), 10)
        assert await store.claim("lease", "you", 10) is False

    # Open, closed, out of reach

    async def test_events_and_leases_are_there_after_closing_if_the_store_is_shared(
        self, make_store: MakeStore, make_session: MakeSession, anyio_backend: str
    ) -> None:
        store: Any = make_store()
        async with store:
            await store.create(make_session())
            for key in (KEY, "@p"):
                await fill(store, 3, key=key)
            await store.append(KEY, "a", {"n": 4}, final=True)
            await store.claim("lease", "me", 10)
        if not store.shared:
            return
        store = make_store()
        async with store:
            assert await numbers(store) == [1, 2, 3, 4]
            assert await numbers(store, key="@p") == [1, 2, 3]
            with pytest.raises(StreamEnded):
                await store.append(KEY, "a", {"n": 5})
            assert EventId.parse(await store.append(KEY, "b", {"n": 5})) == EventId.of(5, KEY, "b")
            assert await store.claim("lease", "you", 10) is False

    async def test_an_operation_on_events_that_is_given_up_harms_no_other(self, log: EventStore) -> None:
        """Not even where the answer to what was given up arrives when the next one is waited for."""
        await fill(log, 3)
        await fill(log, 2, key=OTHER)
        async with asyncio.timeout(base.PATIENCE):
            for turns in range(20):
                given_up = [
                    asyncio.ensure_future(call)
                    for call in (log.read(KEY, None), log.claim("lease", "me", 10), log.wait(KEY, None, 0))
                ]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in given_up:
                    task.cancel()
                assert await numbers(log, key=OTHER) == [1, 2]
                assert await numbers(log) == [1, 2, 3]
                await asyncio.gather(*given_up, return_exceptions=True)

    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_a_log_that_was_not_entered_or_is_closed_is_unavailable(
        self, make_store: MakeStore, anyio_backend: str, operation: str
    ) -> None:
        store: Any = make_store()
        with pytest.raises(StoreUnavailable):
            await OPERATIONS[operation](store)
        async with store:
            await OPERATIONS[operation](store)
        with pytest.raises(StoreUnavailable):
            await OPERATIONS[operation](store)

    async def test_a_log_out_of_reach_is_unavailable_in_bounded_time_and_wakes_waiters_again_afterwards(
        self, logs: Pair, outage: AbstractAsyncContextManager[object] | None
    ) -> None:
        if outage is None:
            pytest.skip("has no server that could be out of reach; where there is one, define the fixture outage")
        (first,) = await fill(logs.one, 1)
        async with outage:
            async with asyncio.timeout(base.PATIENCE):
                results: list[object] = await asyncio.gather(
                    *(operation(logs.one) for operation in OPERATIONS.values()), return_exceptions=True
                )
            assert {name: type(result) for name, result in zip(OPERATIONS, results, strict=True)} == dict.fromkeys(
                OPERATIONS, StoreUnavailable
            )
        for log in logs:
            await back(log)
        assert await numbers(logs.two) == [1]
        async with asyncio.timeout(base.PATIENCE):
            following = asyncio.ensure_future(followed(logs.one, KEY, 6, limit=10))
            await settle(logs.one)
            for number in range(2, 7):
                await logs.two.append(KEY, "get", {"n": number})
            assert [event.message for event in await following] == [{"n": number} for number in range(1, 7)]
        assert await numbers(logs.one, first) == [2, 3, 4, 5, 6]
