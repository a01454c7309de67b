"""What has expired: while it is still there, and when the server removes it by itself."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from mcp_tornado.stores import SessionGone, to_microseconds

pytestmark = pytest.mark.anyio

KEY = "key-0001-and-so-on"


async def test_a_session_that_has_expired_and_is_still_there_is_not_live(place, make_session, clock):
    """The server's TTL monitor runs once a minute, and may lag: until then the document can be read."""
    make_store, database = place
    async with make_store() as store:
        for name in ("sessions", "events"):
            database[name].drop_indexes()
        await store.create(make_session(KEY, lives=-5000, principal="one"))
        await store.create(make_session("live", principal="one"))
        assert database["sessions"].find_one({"_id": KEY}) is not None
        assert (await store.count(), await store.count("one")) == (1, 1)
        assert [found.key for found in await store.page(None, 10)] == ["live"]
        later = clock() + timedelta(seconds=100)
        assert await store.touch(KEY, later, later) is False
        assert await store.update(KEY, {"expires_at": to_microseconds(later)}, 0) is None
        with pytest.raises(SessionGone):
            await store.append(KEY, "get", {})
        assert await store.wait(KEY, None, 1_000_000) is True
        assert await store.sweep(clock(), 10) == 1
        assert [found["_id"] for found in database["sessions"].find()] == ["live"]


async def test_the_server_removes_what_nobody_swept(nx, make_session, clock):
    make_store, database = nx
    async with make_store(events={"ttl_seconds": 1}) as store:
        await store.create(make_session(KEY))
        await store.create(make_session("live"))
        for number in range(3):
            await store.append(KEY, "get", {"n": number})
            await store.append("live", "get", {"n": number})
        await store.claim("lease", "me", -301)
        await store.claim("lease that lasts", "me", 100)
        await store.append("@p", "mailbox", {})
        later = clock() + timedelta(seconds=1)
        await store.touch(KEY, later, later + timedelta(seconds=100))
        await store.update(KEY, {"expires_at": to_microseconds(clock() - timedelta(seconds=301))}, 0)
        async with asyncio.timeout(30):
            while database["sessions"].count_documents({}) == 3 or database["leases"].count_documents({}) == 2:
                await asyncio.sleep(0.05)
        assert {found["_id"] for found in database["sessions"].find()} == {"live", "@p"}
        assert [found["_id"] for found in database["leases"].find()] == ["lease that lasts"]
        # The events were archived a moment ago, for a second and the grace.
        assert database["events"].count_documents({}) == 4
        assert await store.read(KEY, None) == []


async def test_a_sweep_removes_more_than_one_command_does_and_no_more_than_it_may(place, make_session, clock):
    make_store, database = place
    async with make_store() as store:
        for number in range(330):
            await store.create(make_session(f"key-{number}"))
        clock.advance(1000)
        assert await store.sweep(clock(), 120) == 120
        assert database["sessions"].count_documents({}) == 210
        assert await store.sweep(clock(), 1000) == 210


async def test_what_is_removed_leaves_nothing_behind(place, make_session, clock):
    make_store, database = place
    async with make_store() as store:
        for key in ("deleted", "swept", "@p"):
            if key != "@p":
                await store.create(make_session(key))
            for number in range(5):
                await store.append(key, "get", {"n": number})
        await store.claim("lease", "me", 10)
        await store.delete("deleted")
        await store.delete("@p")
        clock.advance(1000)
        await store.sweep(clock(), 10)
        assert {name: list(database[name].find()) for name in ("sessions", "events", "leases")} == {
            "sessions": [],
            "events": [],
            "leases": [],
        }


async def test_an_event_that_is_archived_too_late_is_not_seen_by_the_next_session_of_that_key(
    place, make_session, clock
):
    """An append in another process may copy an event into the archive after the session was deleted."""
    make_store, database = place
    async with make_store() as store:
        await store.create(make_session(KEY))
        for number in range(3):
            await store.append(KEY, "get", {"n": number})
        late = list(database["events"].find())
        await store.delete(KEY)
        database["events"].insert_many(late)
        assert await store.read(KEY, None) == []
        await store.create(make_session(KEY))
        assert await store.read(KEY, None) == []
        for number in ("a", "b", "c", "d"):
            await store.append(KEY, "get", {"n": number})
        assert [event.message["n"] for event in await store.read(KEY, None)] == ["a", "b", "c", "d"]


async def test_the_archive_does_not_grow_without_bound(place, make_session):
    make_store, database = place
    for key, bounds in (
        ("many", {"max_per_session": 8}),
        ("large", {"max_bytes": 800}),
        ("@p", {"max_per_session": 1}),
    ):
        async with make_store(events=bounds) as store:
            if key != "@p":
                await store.create(make_session(key))
            for _ in range(50):
                await store.append(key, "get", {"filling": "x" * 86})
                assert database["events"].count_documents({}) <= 11
            await store.delete(key)


async def test_a_process_whose_clock_is_behind_tears_no_gap_into_what_is_kept(place, make_session, clock):
    make_store, _ = place
    bounds = {"ttl_seconds": 60}
    async with make_store(events=bounds) as behind:
        await behind.create(make_session(KEY, lives=1000))
        behind._opened.events._clock = clock.__class__()
        clock.advance(100)
        async with make_store(events=bounds) as right:
            ids = [await log.append(KEY, "get", {}) for log in (right, behind, right, behind)]
            assert [event.id for event in await right.read(KEY, None)] == ids
