"""What is in Redis: the server removes what nobody sweeps, nothing stays behind, and stores do not meet."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from mcp_tornado_redis import redis_store

from mcp_tornado.stores import SessionGone

pytestmark = pytest.mark.anyio

KEY, OTHER = "key-0001", "key-0002"
GRACE = timedelta(seconds=300)
DAY = timedelta(days=1)


def seconds(count):
    return timedelta(seconds=count)


def names(client):
    return sorted(name.decode() for name in client.scan_iter())


def removal_times(client):
    """Return when the server will remove what is stored: the different times, each once."""
    times = {client.pexpiretime(name) for name in client.scan_iter()}
    return [datetime.fromtimestamp(time / 1000, UTC) for time in sorted(times)]


def to_the_millisecond(moment):
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# What the server removes


async def test_the_server_removes_all_of_a_session_that_nobody_sweeps(client, server, make_session, eventually):
    behind = GRACE + seconds(100)

    def slow_clock():
        return datetime.now(UTC) - behind

    async with redis_store(server.url, {}, slow_clock) as store:
        await store.create(make_session(expires_at=slow_clock() + seconds(100.5), principal="someone"))
        await store.append(KEY, "get", {}, final=True)
        await store.claim("lease", "me", 100.5)
        assert await store.count() == await store.count("someone") == len(await store.read(KEY, None)) == 1
        await eventually(lambda: names(client) == [])
        assert await store.get(KEY) is None
        with pytest.raises(SessionGone):
            await store.append(KEY, "get", {})


async def test_the_server_keeps_all_of_a_session_for_some_minutes_after_it_expired(client, store, make_session, clock):
    session = make_session(principal="someone")
    await store.create(session)
    assert removal_times(client) == [to_the_millisecond(session.expires_at) + GRACE]
    await store.append(KEY, "get", {}, final=True)
    assert removal_times(client) == [to_the_millisecond(session.expires_at) + GRACE]
    assert len(names(client)) == 7


async def test_what_moves_the_expiry_moves_the_removal_of_all_that_belongs_to_the_session(
    client, store, make_session, clock
):
    await store.create(make_session(principal="someone"))
    await store.append(KEY, "get", {}, final=True)
    later = to_the_millisecond(clock() + seconds(1000))
    await store.touch(KEY, clock(), later)
    assert removal_times(client) == [later + GRACE]
    later += seconds(1000)
    await store.update(KEY, {"expires_at": int(later.timestamp() * 1_000_000)}, 0)
    assert removal_times(client) == [later + GRACE]


async def test_an_index_stays_as_long_as_the_session_that_lives_longest(client, store, make_session):
    longest = make_session(lives=1000, principal="someone")
    await store.create(longest)
    await store.create(make_session(OTHER, lives=10, principal="someone"))
    await store.delete(KEY)
    assert removal_times(client)[-1] == to_the_millisecond(longest.expires_at) + GRACE


async def test_the_events_of_a_process_stay_for_a_day_after_it_was_last_there(client, store, clock):
    await store.append("@p", "mailbox", {})
    assert removal_times(client) == [to_the_millisecond(clock()) + DAY]
    clock.advance(3600)
    await store.append("@p", "mailbox", {}, final=True)
    assert removal_times(client) == [to_the_millisecond(clock()) + DAY]
    appended = to_the_millisecond(clock())
    clock.advance(11 * 3600)
    await store.read("@p", None)
    assert removal_times(client) == [appended + DAY], "a read need not write each time"


@pytest.mark.parametrize("reads", [lambda store: store.read("@p", None), lambda store: store.wait("@p", None, 0)])
async def test_a_process_that_reads_keeps_its_events(client, store, clock, reads):
    await store.append("@p", "mailbox", {}, final=True)
    clock.advance(13 * 3600)
    await reads(store)
    assert removal_times(client) == [to_the_millisecond(clock()) + DAY]


async def test_the_events_of_a_process_stay_as_long_as_the_bounds_say(client, open_store, clock):
    store = await open_store(events={"ttl_seconds": 10 * 86_400})
    await store.append("@p", "mailbox", {})
    assert removal_times(client) == [to_the_millisecond(clock()) + 10 * DAY]


# What stays behind


async def test_nothing_stays_of_a_session_that_was_deleted(client, store, make_session):
    await store.create(make_session(principal="someone"))
    await store.append(KEY, "get", {}, final=True)
    await store.delete(KEY)
    assert names(client) == []


async def test_nothing_stays_of_sessions_that_were_swept(client, store, make_session, clock):
    for number in range(500):
        await store.create(make_session(f"key-{number}", principal=f"p{number % 3}"))
    await store.append("key-7", "get", {}, final=True)
    assert await store.sweep(clock.advance(100), 1000) == 500
    assert names(client) == []


async def test_nothing_stays_of_a_process_that_was_deleted_nor_of_a_lease_that_was_released(client, store):
    await store.append("@p", "mailbox", {}, final=True)
    await store.delete("@p")
    await store.claim("lease", "me", 10)
    await store.release("lease", "me")
    assert names(client) == []


async def test_nothing_stays_of_events_that_were_evicted(client, open_store, make_session, clock):
    store = await open_store(events={"max_per_session": 5, "ttl_seconds": 60})
    await store.create(make_session(lives=10_000))
    for number in range(20):
        await store.append(KEY, f"stream-{number}", {}, final=True)
    assert (client.xlen(f"mcp-tornado:events:{KEY}"), client.zcard(f"mcp-tornado:ended:{KEY}")) == (5, 5)
    clock.advance(61)
    await store.append(KEY, "get", {})
    assert client.xlen(f"mcp-tornado:events:{KEY}") == 1


# What the indexes say


async def test_a_page_looks_past_any_number_of_expired_sessions(store, make_session, clock):
    await asyncio.gather(*(store.create(make_session(f"expired-{number:04}", lives=10)) for number in range(2100)))
    await store.create(make_session("live"))
    clock.advance(10)
    assert [session.key for session in await store.page(None, 5)] == ["live"]


async def test_a_touch_counts_for_whom_the_session_belongs_to_now(store, make_session, clock):
    await store.create(make_session(principal="one"))
    await store.update(KEY, {"principal": "two"}, 0)
    await store.touch(KEY, clock(), clock() + seconds(200))
    assert (await store.count("one"), await store.count("two")) == (0, 1)
    await store.update(KEY, {"principal": None}, 1)
    await store.touch(KEY, clock(), clock() + seconds(300))
    assert (await store.count("one"), await store.count("two"), await store.count()) == (0, 0, 1)


# The bounds of events, to the byte and among clocks that differ


async def test_events_that_fill_the_bytes_exactly_are_kept(open_store, make_session):
    store = await open_store(events={"max_bytes": 3 * len('{"n":1}')})
    await store.create(make_session())
    for number in range(5):
        await store.append(KEY, "get", {"n": number})
    assert [event.message["n"] for event in await store.read(KEY, None)] == [2, 3, 4]


async def test_events_of_processes_whose_clocks_differ_leave_no_gap(server, open_store, make_session, clock):
    events = {"ttl_seconds": 60}
    store = await open_store(events=events)
    await store.create(make_session(lives=1000))
    async with redis_store(server.url, {"events": events}, lambda: clock() + seconds(50)) as ahead:
        await store.append(KEY, "get", {"n": 1})
        await ahead.append(KEY, "get", {"n": 2})
        await store.append(KEY, "get", {"n": 3})
        await store.append(KEY, "get", {"n": 4})
    clock.advance(70)
    assert [event.message["n"] for event in await store.read(KEY, None)] == [2, 3, 4]
    await store.append(KEY, "get", {"n": 5})
    assert [event.message["n"] for event in await store.read(KEY, None)] == [2, 3, 4, 5]


# What the server has removed by itself: after the grace, or to make room


async def test_a_session_that_the_server_removed_is_gone_everywhere(client, store, make_session, clock):
    await store.create(make_session(KEY))
    await store.create(make_session(OTHER))
    client.delete(f"mcp-tornado:session:{KEY}")
    assert await store.get(KEY) is None
    assert [session.key for session in await store.page(None, 1)] == [OTHER]
    assert await store.touch(KEY, clock(), clock() + seconds(1000)) is False
    assert await store.update(KEY, {}, 0) is None
    assert await store.wait(KEY, None, 1000) is True
    with pytest.raises(SessionGone):
        await store.append(KEY, "get", {})
    assert await store.delete(KEY) is False
    assert await store.count() == 1


async def test_a_sweep_removes_what_the_indexes_know_of_a_session_that_the_server_removed(
    client, store, make_session, clock
):
    await store.create(make_session(KEY, principal="one"))
    await store.append(KEY, "get", {})
    client.delete(f"mcp-tornado:session:{KEY}")
    assert await store.sweep(clock.advance(100), 10) == 1
    assert await store.count("one") == 0
    assert names(client) == ["mcp-tornado:principal:one"]
    clock.advance(301)
    await store.create(make_session(OTHER, principal="one"))
    await store.delete(OTHER)
    assert names(client) == []


async def test_a_new_session_has_no_events_of_one_that_the_server_removed(client, store, make_session):
    await store.create(make_session())
    await store.append(KEY, "get", {}, final=True)
    client.delete(f"mcp-tornado:session:{KEY}")
    await store.create(make_session())
    assert await store.read(KEY, None) == []
    await store.append(KEY, "get", {})


@pytest.mark.parametrize("removed", ["log", "events", "ended"])
async def test_a_log_of_which_the_server_removed_a_part_goes_on(client, store, make_session, removed):
    await store.create(make_session())
    await store.append(KEY, "get", {"n": 1})
    await store.append(KEY, "get", {"n": 2})
    await store.append(KEY, "post", {"n": 3}, final=True)
    client.delete(f"mcp-tornado:{removed}:{KEY}")
    await store.append(KEY, "get", {"n": 4})
    assert (await store.read(KEY, None))[-1].message == {"n": 4}


# Stores that do not meet


@pytest.mark.parametrize("differs", ["prefix", "database"])
async def test_stores_with_another_prefix_or_database_do_not_meet(store, server, make_session, clock, differs):
    url, options = (server.url, {"prefix": "other:"}) if differs == "prefix" else (f"{server.url}/1", {})
    async with redis_store(url, options, clock) as other:
        await store.create(make_session(KEY, principal="one"))
        await store.create(make_session(OTHER))
        await other.create(make_session(KEY))
        first = await store.append(KEY, "get", {"n": 1})
        assert (await store.count(), await other.count(), await other.count("one")) == (2, 1, 0)
        assert await other.read(KEY, None) == []
        assert await store.claim("lease", "me", 10) is await other.claim("lease", "you", 10) is True

        waiting = asyncio.ensure_future(store.wait(KEY, first, 1000))
        waiting_for_other = asyncio.ensure_future(store.wait(OTHER, None, 1000))
        await store.ping()
        await other.append(KEY, "get", {"n": 2})
        await other.append(KEY, "get", {"n": 3})
        await other.delete(KEY)
        # What is told comes in order: once this is heard, all of that would have been.
        await store.append(OTHER, "get", {})
        assert await waiting_for_other is True
        assert not waiting.done()
        waiting.cancel()


async def test_names_of_any_kind_come_back_and_wake(store, other_store, make_session):
    text = "7:\ud800 ä\0\r\n"
    await store.create(make_session(text, principal=text))
    assert (await store.page(None, 1))[0].principal == text
    assert await store.count(text) == 1
    waiting = asyncio.ensure_future(store.wait(text, None, 1000))
    await store.ping()
    await other_store.append(text, text, {})
    assert await waiting is True
    (event,) = await store.read(text, None, stream=text)
    assert event.stream == text
    assert await store.claim(text, text, 10) is True
    assert await store.claim(text, "another", 10) is False
