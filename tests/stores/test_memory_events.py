"""The memory store's event log: everything that is asked of an event log."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado.sessions import EventBounds, EventId, SessionGone, StreamEnded
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

KEY = "key-0001-and-so-on"
OTHER = "key-0002-and-so-on"


@pytest.fixture
async def log(store, make_session):
    """A store with two live sessions."""
    await store.create(make_session(key=KEY))
    await store.create(make_session(key=OTHER))
    return store


@pytest.fixture
async def bounded(anyio_backend, clock, make_session):
    """Open a store with these bounds and one live session."""
    stores = []

    async def open_store(**bounds):
        store = await MemoryStore(clock, EventBounds(**bounds)).__aenter__()
        stores.append(store)
        await store.create(make_session(key=KEY, lives=1_000_000))
        return store

    yield open_store
    for store in stores:
        await store.__aexit__(None, None, None)


async def numbers(log, after=None, key=KEY, **options):
    return [event.message["n"] for event in await log.read(key, after, **options)]


async def fill(log, count, key=KEY, stream="GET"):
    return [await log.append(key, stream, {"n": number}) for number in range(1, count + 1)]


# append, read


async def test_events_come_back_in_order_as_they_were_appended(log):
    message = {"jsonrpc": "2.0", "id": "x", "result": {"deep": [1, None, 2.5, "ä"]}}
    priming = await log.append(KEY, "request-1", None)
    middle = await log.append(KEY, "GET", message)
    last = await log.append(KEY, "request-1", {"n": 1}, final=True)
    events = await log.read(KEY, None)
    assert [(event.id, event.stream, event.message, event.final) for event in events] == [
        (priming, "request-1", None, False),
        (middle, "GET", message, False),
        (last, "request-1", {"n": 1}, True),
    ]


async def test_an_event_id_names_its_stream_and_not_the_whole_key(log):
    event_id = EventId.parse(await log.append(KEY, "request-1", {}))
    assert (event_id.stream, event_id.session) == ("request-1", KEY[:8])


async def test_ids_are_unique_and_increasing_under_many_appenders(log, settle):
    seen = []

    async def follow():
        after = None
        while len(seen) < 400:
            for event in await log.read(KEY, after, limit=7):
                seen.append(event)
                after = event.id
            await log.wait(KEY, after, 10)

    async def append(writer):
        ids = []
        for number in range(20):
            ids.append(await log.append(KEY, f"stream-{writer % 3}", {"writer": writer, "n": number}))
            await asyncio.sleep(0)
        return ids

    following = asyncio.create_task(follow())
    written = await asyncio.gather(*(append(writer) for writer in range(20)))
    await asyncio.wait_for(following, 30)
    ids = [event_id for ids in written for event_id in ids]
    assert len(set(ids)) == 400
    assert all(ids == sorted(ids) for ids in written)
    assert [event.id for event in seen] == sorted(ids), "a follower sees every event, once, in order"
    for writer in range(20):
        assert [event.message["n"] for event in seen if event.message["writer"] == writer] == list(range(20))


async def test_reading_goes_on_after_an_event_and_can_be_repeated(log):
    ids = await fill(log, 5)
    assert await numbers(log) == [1, 2, 3, 4, 5]
    assert await numbers(log, ids[1]) == [3, 4, 5]
    assert await numbers(log, ids[1]) == [3, 4, 5]
    assert await numbers(log, ids[4]) == []


async def test_reading_can_be_limited(log):
    ids = await fill(log, 5)
    assert await numbers(log, limit=2) == [1, 2]
    assert await numbers(log, ids[1], limit=2) == [3, 4]
    assert await numbers(log, limit=100) == [1, 2, 3, 4, 5]


async def test_reading_at_most_no_events_reads_none(log):
    await fill(log, 3)
    assert await numbers(log, limit=0) == []


async def test_reading_is_limited_to_a_hundred_events_unless_told_otherwise(log):
    await fill(log, 150)
    assert len(await log.read(KEY, None)) == 100


async def test_reading_can_be_of_one_stream(log):
    ids = [await log.append(KEY, "ab"[number % 2], {"n": number}) for number in range(8)]
    assert await numbers(log, stream="a") == [0, 2, 4, 6]
    assert await numbers(log, ids[3], stream="a") == [4, 6]
    assert await numbers(log, ids[3], stream="b", limit=1) == [5]
    assert await numbers(log, stream="c") == []


async def test_a_limit_counts_the_events_of_the_wanted_stream_only(log):
    await fill(log, 10, stream="other")
    await fill(log, 3, stream="wanted")
    assert await numbers(log, stream="wanted", limit=2) == [1, 2]


async def test_sessions_do_not_see_each_others_events(log):
    await fill(log, 3)
    await log.append(OTHER, "GET", {"n": "other"})
    assert await numbers(log) == [1, 2, 3]
    assert await numbers(log, key=OTHER) == ["other"]


@pytest.mark.parametrize(
    "after",
    ["", "nonsense", "1", "000000000001", "-1.key-0001.GET", "x.key-0001.GET", "000000000001.key-0001.", "\n"],
)
async def test_reading_after_what_is_no_event_id_reads_nothing(log, after):
    await fill(log, 3)
    assert await log.read(KEY, after) == []


async def test_reading_after_an_event_of_another_session_reads_nothing(log):
    await fill(log, 3)
    others = await fill(log, 3, key=OTHER)
    assert others[0] not in [event.id for event in await log.read(KEY, None)]
    assert await log.read(KEY, others[0]) == []


async def test_reading_after_an_event_that_never_was_reads_nothing_even_when_there_are_more_later(log):
    await fill(log, 3)
    assert await log.read(KEY, str(EventId.of(999, KEY, "GET"))) == []


async def test_a_session_without_events_has_none(log):
    assert await log.read(KEY, None) == []
    assert await log.read("unknown", None) == []


async def test_changing_a_message_later_does_not_change_what_is_stored(log):
    message = {"n": [1]}
    await log.append(KEY, "GET", message)
    message["n"].append(2)
    (event,) = await log.read(KEY, None)
    event.message["n"].append(3)
    assert (await log.read(KEY, None))[0].message == {"n": [1]}


@pytest.mark.parametrize("value", [2**64 + 1, 10**30, "\ud800"], ids=["65 bits", "100 bits", "lone surrogate"])
async def test_an_event_that_was_appended_can_be_read_again_unchanged(log, value):
    """JSON has no largest number, and a tool may return one; without a stream the answer holds it as it is."""
    await log.append(KEY, "GET", {"n": value})
    await log.append(KEY, "GET", {"n": "next"})
    assert await numbers(log) == [value, "next"]


async def test_a_message_that_cannot_be_stored_harms_no_other_event(log):
    first = await log.append(KEY, "GET", {"n": 1})
    with pytest.raises(TypeError):
        await log.append(KEY, "GET", {"n": object()})
    assert await numbers(log, first) == []
    second = await log.append(KEY, "GET", {"n": 2})
    third = await log.append(KEY, "GET", {"n": 3})
    assert await numbers(log) == [1, 2, 3]
    assert await numbers(log, first) == [2, 3]
    assert await numbers(log, second) == [3]
    assert await numbers(log, third) == []


async def test_a_first_message_that_cannot_be_stored_leaves_an_empty_log(log):
    with pytest.raises(TypeError):
        await log.append(KEY, "GET", {"n": object()}, final=True)
    assert await log.read(KEY, None) == []
    assert await log.wait(KEY, None, 0) is False
    await log.append(KEY, "GET", {"n": 1})
    assert await numbers(log) == [1]


# The ends of streams and sessions


async def test_a_stream_ends_with_its_final_event_and_others_go_on(log):
    await log.append(KEY, "a", {"n": 1}, final=True)
    for final in (False, True):
        with pytest.raises(StreamEnded):
            await log.append(KEY, "a", {"n": 2}, final=final)
    await log.append(KEY, "b", {"n": 3})
    await log.append(OTHER, "a", {"n": 4})
    assert await numbers(log) == [1, 3]


async def test_of_many_who_end_a_stream_one_does(log):
    results = await asyncio.gather(
        *(log.append(KEY, "a", {"n": number}, final=True) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(result, StreamEnded) for result in results) == 19
    assert len(await log.read(KEY, None)) == 1


async def test_a_stream_stays_ended_when_its_final_event_has_been_evicted(bounded):
    log = await bounded(max_per_session=5)
    await log.append(KEY, "a", {"n": 0}, final=True)
    await fill(log, 10, stream="b")
    with pytest.raises(StreamEnded):
        await log.append(KEY, "a", {"n": 1})


async def test_an_unknown_deleted_or_expired_session_takes_no_events(log, clock):
    with pytest.raises(SessionGone):
        await log.append("unknown", "GET", {})
    await log.append(OTHER, "GET", {"n": 1})
    await log.delete(OTHER)
    with pytest.raises(SessionGone):
        await log.append(OTHER, "GET", {})
    clock.advance(99.999999)
    await log.append(KEY, "GET", {"n": 1})
    clock.advance(microseconds=1)
    with pytest.raises(SessionGone):
        await log.append(KEY, "GET", {})
    assert await log.read(OTHER, None) == []


async def test_that_a_session_is_gone_is_told_without_its_whole_key(store):
    with pytest.raises(SessionGone) as caught:
        await store.append("abcdefghijklm", "GET", {})
    assert "abcdefghi" not in str(caught.value)


@pytest.mark.parametrize("key", ["@p", "@process-1", "@a.b", "@host.example:8000", "@"])
async def test_the_keys_of_processes_need_no_session(store, clock, key):
    ids = await fill(store, 3, key=key, stream="mailbox")
    clock.advance(1000)
    assert await numbers(store, key=key) == [1, 2, 3]
    assert await numbers(store, ids[0], key=key) == [2, 3]
    assert await store.wait(key, ids[0], 0) is True
    assert await store.wait(key, ids[2], 0) is False


async def test_a_sweep_leaves_the_events_of_processes(store, clock):
    await fill(store, 3, key="@p")
    clock.advance(1000)
    await store.sweep(clock(), 100)
    assert await numbers(store, key="@p") == [1, 2, 3]


# wait


async def test_waiting_ends_at_once_when_there_is_something_already(log):
    ids = await fill(log, 2)
    assert await log.wait(KEY, None, 1000) is True
    assert await log.wait(KEY, ids[0], 1000) is True


async def test_waiting_ends_when_another_task_appends(log, settle):
    (first,) = await fill(log, 1)
    waiting = [asyncio.create_task(log.wait(KEY, first, 1000)) for _ in range(3)]
    empty = asyncio.create_task(log.wait(OTHER, None, 1000))
    await settle()
    assert not any(task.done() for task in [*waiting, empty])
    await log.append(KEY, "GET", {"n": 2})
    assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == [True] * 3
    await settle()
    assert not empty.done(), "nobody is woken by another session's event"
    await log.append(OTHER, "GET", {"n": 1})
    assert await asyncio.wait_for(empty, 10) is True


async def test_waiting_for_a_log_that_has_no_event_yet_ends_with_the_first(log, settle):
    waiting = asyncio.create_task(log.wait("@p", None, 1000))
    await settle()
    await log.append("@p", "mailbox", {"n": 1})
    assert await asyncio.wait_for(waiting, 10) is True


async def test_waiting_ends_with_false_when_the_time_is_up(log):
    (first,) = await fill(log, 1)
    assert await log.wait(KEY, first, 0.01) is False
    assert await log.wait(OTHER, None, 0) is False
    assert await log.wait("@p", None, 0) is False


async def test_waiting_ends_when_the_session_is_deleted(log, settle):
    (first,) = await fill(log, 1)
    waiting = [asyncio.create_task(log.wait(key, after, 1000)) for key, after in ((KEY, first), (OTHER, None))]
    await settle()
    await log.delete(KEY)
    await log.delete(OTHER)
    assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == [True, True]


async def test_waiting_ends_when_the_session_is_swept(log, clock, settle):
    (first,) = await fill(log, 1)
    waiting = asyncio.create_task(log.wait(KEY, first, 1000))
    await settle()
    clock.advance(100)
    await log.sweep(clock(), 10)
    assert await asyncio.wait_for(waiting, 10) is True


async def test_waiting_for_a_session_that_is_not_there_ends_at_once(log):
    assert await log.wait("unknown", None, 1000) is True


async def test_waiting_after_an_evicted_event_ends_at_once(bounded):
    log = await bounded(max_per_session=2)
    ids = await fill(log, 5)
    assert await log.wait(KEY, ids[0], 1000) is True


async def test_waiting_leaves_no_events_behind_that_would_outlive_the_session(log, settle):
    waiting = asyncio.create_task(log.wait(KEY, None, 1000))
    await settle()
    await log.delete(KEY)
    await asyncio.wait_for(waiting, 10)
    assert KEY not in log._events._logs


# Bounds


async def test_a_session_keeps_the_newest_events_up_to_the_number(bounded):
    log = await bounded(max_per_session=3)
    ids = await fill(log, 10)
    assert await numbers(log) == [8, 9, 10]
    assert await numbers(log, ids[8]) == [10]


async def test_reading_after_an_evicted_event_goes_on_at_the_oldest_kept(bounded):
    log = await bounded(max_per_session=3)
    ids = await fill(log, 10)
    for evicted in ids[:6]:
        assert await numbers(log, evicted) == [8, 9, 10]
    assert await numbers(log, ids[6]) == [8, 9, 10]
    assert await numbers(log, ids[7]) == [9, 10]


async def test_a_session_keeps_the_newest_events_up_to_the_bytes(bounded):
    log = await bounded(max_bytes=1000)
    for number in range(20):
        await log.append(KEY, "GET", {"n": number, "filling": "x" * 300})
    assert await numbers(log) == [17, 18, 19]
    await log.append(KEY, "GET", {"n": 20, "filling": "x" * 700})
    assert await numbers(log) == [20]
    for number in range(21, 24):
        await log.append(KEY, "GET", {"n": number, "filling": "x" * 300})
    assert await numbers(log) == [21, 22, 23]


async def test_the_size_of_an_event_counts_bytes_and_not_characters(bounded):
    log = await bounded(max_bytes=1000)
    for number in range(3):
        await log.append(KEY, "GET", {"n": number, "filling": "ä" * 250})
    assert await numbers(log) == [2]


async def test_a_session_keeps_events_up_to_their_age(bounded, clock):
    log = await bounded(ttl_seconds=60)
    ids = await fill(log, 2)
    clock.advance(30)
    await log.append(KEY, "GET", {"n": 3})
    clock.advance(30)
    assert await numbers(log) == [1, 2, 3]
    clock.advance(microseconds=1)
    assert await numbers(log) == [3], "without an append, too"
    assert await numbers(log, ids[0]) == [3]


async def test_the_newest_event_is_always_kept(bounded, clock):
    log = await bounded(max_per_session=0, max_bytes=1, ttl_seconds=1)
    await log.append(KEY, "GET", {"n": 1})
    await log.append(KEY, "GET", {"n": 2})
    clock.advance(1000)
    assert await numbers(log) == [2]


async def test_ids_go_on_increasing_whatever_is_evicted(bounded, clock):
    log = await bounded(max_per_session=2, ttl_seconds=10)
    ids = []
    for number in range(20):
        ids.append(await log.append(KEY, "GET", {"n": number}))
        clock.advance(7)
    assert ids == sorted(set(ids))


async def test_the_bounds_are_for_each_session_by_itself(bounded, make_session):
    log = await bounded(max_per_session=3)
    await log.create(make_session(key=OTHER))
    await fill(log, 3, key=OTHER)
    await fill(log, 10)
    assert await numbers(log, key=OTHER) == [1, 2, 3]


# Leases


async def test_a_lease_has_one_owner_who_may_renew_it(store):
    assert await store.claim("lease", "me", 10) is True
    assert await store.claim("lease", "you", 10) is False
    assert await store.claim("lease", "me", 10) is True
    assert await store.claim("another lease", "you", 10) is True


async def test_of_many_who_claim_a_lease_one_gets_it(store):
    results = await asyncio.gather(*(store.claim("lease", f"owner-{number}", 10) for number in range(20)))
    assert results.count(True) == 1


async def test_a_lease_ends_with_its_time_and_not_before(store, clock):
    await store.claim("lease", "me", 10)
    clock.advance(9.999999)
    assert await store.claim("lease", "you", 10) is False
    clock.advance(microseconds=1)
    assert await store.claim("lease", "you", 10) is True
    assert await store.claim("lease", "me", 10) is False


async def test_a_renewed_lease_lasts_from_then_on(store, clock):
    await store.claim("lease", "me", 10)
    clock.advance(9)
    await store.claim("lease", "me", 10)
    clock.advance(9)
    assert await store.claim("lease", "you", 10) is False
    clock.advance(1)
    assert await store.claim("lease", "you", 10) is True


async def test_a_released_lease_is_free(store):
    await store.claim("lease", "me", 10)
    await store.release("lease", "me")
    assert await store.claim("lease", "you", 10) is True


async def test_only_its_owner_can_release_a_lease_and_trying_is_no_error(store):
    await store.claim("lease", "me", 10)
    await store.release("lease", "you")
    await store.release("no such lease", "you")
    assert await store.claim("lease", "you", 10) is False


async def test_who_lost_a_lease_cannot_release_it_for_the_new_owner(store, clock):
    await store.claim("lease", "me", 10)
    clock.advance(10)
    await store.claim("lease", "you", 10)
    await store.release("lease", "me")
    assert await store.claim("lease", "me", 10) is False


async def test_a_sweep_leaves_leases_that_last(store, clock):
    await store.claim("lease", "me", 10)
    clock.advance(9)
    await store.sweep(clock(), 10)
    assert await store.claim("lease", "you", 10) is False


async def test_a_sweep_for_a_later_moment_leaves_leases_that_last(store, clock):
    await store.claim("lease", "me", 10)
    now = clock()
    await store.sweep(clock.__class__().advance(20), 10)
    assert clock() == now
    assert await store.claim("lease", "you", 10) is False


@pytest.mark.parametrize("tick", [0, 1], ids=["a clock that stands", "a clock that goes on"])
async def test_leases_that_have_ended_leave_nothing_in_memory(clock, tick):
    async with MemoryStore(lambda: clock.advance(microseconds=tick)) as store:
        for number in range(100):
            await store.claim(f"lease-{number}", "me", 10)
        clock.advance(10)
        await store.sweep(clock(), 10)
        assert store._events._leases == {}
