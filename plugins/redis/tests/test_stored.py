"""The keys in Redis: which ones the server removes by itself, that none stays behind, and that stores are separate."""

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


def list_names(client):
    return sorted(name.decode() for name in client.scan_iter())


def list_removal_times(client):
    """Return the times at which the server will remove keys, in order and each once."""
    times = {client.pexpiretime(name) for name in client.scan_iter()}
    return [datetime.fromtimestamp(time / 1000, UTC) for time in sorted(times)]


def floor_to_millisecond(moment):
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


# Removal by the server


async def test_the_server_removes_all_keys_of_a_session_that_is_not_swept(client, server, make_session, eventually):
    delay = GRACE + seconds(100)

    def slow_clock():
        return datetime.now(UTC) - delay

    async with redis_store(server.url, {}, slow_clock) as store:
        await store.create(make_session(expires_at=slow_clock() + seconds(100.5), principal="someone"))
        await store.append(KEY, "get", {}, final=True)
        await store.claim("lease", "me", 100.5)
        assert await store.count() == await store.count("someone") == len(await store.read(KEY, None)) == 1
        await eventually(lambda: list_names(client) == [], "the server has removed all keys")
        assert await store.get(KEY) is None
        with pytest.raises(SessionGone):
            await store.append(KEY, "get", {})


async def test_the_server_keeps_all_keys_of_a_session_for_the_grace_after_its_expiry(
    client, store, make_session, clock
):
    session = make_session(principal="someone")
    await store.create(session)
    assert list_removal_times(client) == [floor_to_millisecond(session.expires_at) + GRACE]
    await store.append(KEY, "get", {}, final=True)
    assert list_removal_times(client) == [floor_to_millisecond(session.expires_at) + GRACE]
    assert len(list_names(client)) == 7


async def test_a_later_expiry_delays_the_removal_of_all_keys_of_a_session(client, store, make_session, clock):
    await store.create(make_session(principal="someone"))
    await store.append(KEY, "get", {}, final=True)
    later = floor_to_millisecond(clock() + seconds(1000))
    await store.touch(KEY, clock(), later)
    assert list_removal_times(client) == [later + GRACE]
    later += seconds(1000)
    await store.update(KEY, {"expires_at": int(later.timestamp() * 1_000_000)}, 0)
    assert list_removal_times(client) == [later + GRACE]


async def test_an_index_is_kept_as_long_as_the_session_with_the_latest_expiry(client, store, make_session):
    longest = make_session(lives=1000, principal="someone")
    await store.create(longest)
    await store.create(make_session(OTHER, lives=10, principal="someone"))
    await store.delete(KEY)
    assert list_removal_times(client)[-1] == floor_to_millisecond(longest.expires_at) + GRACE


async def test_the_events_of_a_process_are_kept_for_a_day_after_its_last_activity(client, store, clock):
    await store.append("@p", "mailbox", {})
    assert list_removal_times(client) == [floor_to_millisecond(clock()) + DAY]
    clock.advance(3600)
    await store.append("@p", "mailbox", {}, final=True)
    assert list_removal_times(client) == [floor_to_millisecond(clock()) + DAY]
    appended = floor_to_millisecond(clock())
    clock.advance(11 * 3600)
    await store.read("@p", None)
    assert list_removal_times(client) == [appended + DAY], "a read extends the time only after half of it"


@pytest.mark.parametrize("reads", [lambda store: store.read("@p", None), lambda store: store.wait("@p", None, 0)])
async def test_reading_and_waiting_extend_the_removal_time_of_a_process(client, store, clock, reads):
    await store.append("@p", "mailbox", {}, final=True)
    clock.advance(13 * 3600)
    await reads(store)
    assert list_removal_times(client) == [floor_to_millisecond(clock()) + DAY]


async def test_the_events_of_a_process_are_kept_as_long_as_the_bounds_demand(client, open_store, clock):
    store = await open_store(events={"ttl_seconds": 10 * 86_400})
    await store.append("@p", "mailbox", {})
    assert list_removal_times(client) == [floor_to_millisecond(clock()) + 10 * DAY]


# Removal by the store


async def test_a_deleted_session_leaves_no_keys(client, store, make_session):
    await store.create(make_session(principal="someone"))
    await store.append(KEY, "get", {}, final=True)
    await store.delete(KEY)
    assert list_names(client) == []


async def test_swept_sessions_leave_no_keys(client, store, make_session, clock):
    for number in range(500):
        await store.create(make_session(f"key-{number}", principal=f"p{number % 3}"))
    await store.append("key-7", "get", {}, final=True)
    assert await store.sweep(clock.advance(100), 1000) == 500
    assert list_names(client) == []


async def test_a_deleted_process_and_a_released_lease_leave_no_keys(client, store):
    await store.append("@p", "mailbox", {}, final=True)
    await store.delete("@p")
    await store.claim("lease", "me", 10)
    await store.release("lease", "me")
    assert list_names(client) == []


async def test_evicted_events_leave_nothing(client, open_store, make_session, clock):
    store = await open_store(events={"max_per_session": 5, "ttl_seconds": 60})
    await store.create(make_session(lives=10_000))
    for number in range(20):
        await store.append(KEY, f"stream-{number}", {}, final=True)
    assert (client.xlen(f"mcp-tornado:events:{KEY}"), client.zcard(f"mcp-tornado:ended:{KEY}")) == (5, 5)
    clock.advance(61)
    await store.append(KEY, "get", {})
    assert client.xlen(f"mcp-tornado:events:{KEY}") == 1


# Indexes


async def test_a_page_skips_any_number_of_expired_sessions(store, make_session, clock):
    for hundred in range(21):
        # Not all at once: each concurrent operation opens a connection.
        keys = (f"expired-{hundred:02}-{number:02}" for number in range(100))
        await asyncio.gather(*(store.create(make_session(key, lives=10)) for key in keys))
    await store.create(make_session("live"))
    clock.advance(10)
    assert [session.key for session in await store.page(None, 5)] == ["live"]


async def test_a_touched_session_counts_for_its_present_principal(store, make_session, clock):
    await store.create(make_session(principal="one"))
    await store.update(KEY, {"principal": "two"}, 0)
    await store.touch(KEY, clock(), clock() + seconds(200))
    assert (await store.count("one"), await store.count("two")) == (0, 1)
    await store.update(KEY, {"principal": None}, 1)
    await store.touch(KEY, clock(), clock() + seconds(300))
    assert (await store.count("one"), await store.count("two"), await store.count()) == (0, 0, 1)


# Bounds of events, with exact sizes and with different clocks


async def test_events_whose_size_equals_the_bound_are_kept(open_store, make_session):
    store = await open_store(events={"max_bytes": 3 * len('{"n":1}')})
    await store.create(make_session())
    for number in range(5):
        await store.append(KEY, "get", {"n": number})
    assert [event.message["n"] for event in await store.read(KEY, None)] == [2, 3, 4]


async def test_events_of_processes_with_different_clocks_have_no_gap(server, open_store, make_session, clock):
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


# Keys that the server has removed: after the grace, or to free memory


async def test_a_session_that_the_server_removed_is_gone_for_every_operation(client, store, make_session, clock):
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


async def test_a_sweep_removes_the_index_entries_of_a_session_that_the_server_removed(
    client, store, make_session, clock
):
    await store.create(make_session(KEY, principal="one"))
    await store.append(KEY, "get", {})
    client.delete(f"mcp-tornado:session:{KEY}")
    assert await store.sweep(clock.advance(100), 10) == 1
    assert await store.count("one") == 0
    assert list_names(client) == ["mcp-tornado:principal:one"]
    clock.advance(301)
    await store.create(make_session(OTHER, principal="one"))
    await store.delete(OTHER)
    assert list_names(client) == []


async def test_a_new_session_has_no_events_of_a_removed_one_with_the_same_key(client, store, make_session):
    await store.create(make_session())
    await store.append(KEY, "get", {}, final=True)
    client.delete(f"mcp-tornado:session:{KEY}")
    await store.create(make_session())
    assert await store.read(KEY, None) == []
    await store.append(KEY, "get", {})


@pytest.mark.parametrize("removed", ["log", "events", "ended"])
async def test_a_log_accepts_events_after_the_server_removed_a_part_of_it(client, store, make_session, removed):
    await store.create(make_session())
    await store.append(KEY, "get", {"n": 1})
    await store.append(KEY, "get", {"n": 2})
    await store.append(KEY, "post", {"n": 3}, final=True)
    client.delete(f"mcp-tornado:{removed}:{KEY}")
    await store.append(KEY, "get", {"n": 4})
    assert (await store.read(KEY, None))[-1].message == {"n": 4}


# Separate stores


@pytest.mark.parametrize("differs", ["prefix", "database"])
async def test_stores_with_different_prefixes_or_databases_are_separate(store, server, make_session, clock, differs):
    url, options = (server.url, {"prefix": "other:"}) if differs == "prefix" else (f"{server.url}/1", {})
    async with redis_store(url, options, clock) as other:
        await store.create(make_session(KEY, principal="one"))
        await store.create(make_session(OTHER))
        await other.create(make_session(KEY))
        first = await store.append(KEY, "get", {"n": 1})
        assert (await store.count(), await other.count(), await other.count("one")) == (2, 1, 0)
        assert await other.read(KEY, None) == []
        assert await store.claim("lease", "me", 10) is await other.claim("lease", "you", 10) is True

        waiting = asyncio.create_task(store.wait(KEY, first, 1000))
        waiting_for_other = asyncio.create_task(store.wait(OTHER, None, 1000))
        await store.ping()
        await other.append(KEY, "get", {"n": 2})
        await other.append(KEY, "get", {"n": 3})
        await other.delete(KEY)
        # Messages arrive in order: when this append wakes its waiter, the messages before it would have arrived.
        await store.append(OTHER, "get", {})
        assert await waiting_for_other is True
        assert not waiting.done()
        waiting.cancel()


async def test_keys_and_names_may_contain_any_characters(store, other_store, make_session):
    text = "7:\ud800 ä\0\r\n"
    await store.create(make_session(text, principal=text))
    assert (await store.page(None, 1))[0].principal == text
    assert await store.count(text) == 1
    waiting = asyncio.create_task(store.wait(text, None, 1000))
    await store.ping()
    await other_store.append(text, text, {})
    assert await waiting is True
    (event,) = await store.read(text, None, stream=text)
    assert event.stream == text
    assert await store.claim(text, text, 10) is True
    assert await store.claim(text, "another", 10) is False
