"""Expired sessions, leases and events: while they are still stored, and when they are removed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mcp_tornado.stores import SessionGone, to_microseconds

pytestmark = pytest.mark.anyio

KEY = "key-0001-and-so-on"


async def test_an_expired_session_that_is_still_stored_is_not_live(backend, make_session, clock):
    """The TTL monitor of the server runs once a minute, and may be late; until then the document can be read."""
    make_store, database = backend
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


async def test_the_server_removes_expired_documents_that_are_not_swept(nx_backend, make_session, clock, eventually):
    make_store, database = nx_backend
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
        await eventually(
            lambda: database["sessions"].count_documents({}) < 3 and database["leases"].count_documents({}) < 2,
            "the server has removed the expired session and lease",
        )
        assert {found["_id"] for found in database["sessions"].find()} == {"live", "@p"}
        assert [found["_id"] for found in database["leases"].find()] == ["lease that lasts"]
        # The archived events expire after one second and the grace.
        assert database["events"].count_documents({}) == 4
        assert await store.read(KEY, None) == []


async def test_a_sweep_removes_several_batches_and_at_most_its_limit(backend, make_session, clock):
    make_store, database = backend
    async with make_store() as store:
        for number in range(330):
            await store.create(make_session(f"key-{number}"))
        clock.advance(1000)
        assert await store.sweep(clock(), 120) == 120
        assert database["sessions"].count_documents({}) == 210
        assert await store.sweep(clock(), 1000) == 210


async def test_deleted_and_swept_sessions_leave_no_documents(backend, make_session, clock):
    make_store, database = backend
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


async def test_an_event_that_is_archived_after_the_deletion_does_not_appear_in_a_new_session(
    backend, make_session, clock
):
    """An append in another process may copy an event into the archive after the session was deleted."""
    make_store, database = backend
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


async def test_the_archive_is_bounded(backend, make_session):
    make_store, database = backend
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


async def test_events_of_a_process_whose_clock_is_behind_leave_no_gap(backend, make_session, clock):
    make_store, _ = backend
    bounds = {"ttl_seconds": 60}
    async with make_store(events=bounds) as behind:
        await behind.create(make_session(KEY, lives=1000))
        behind._opened.events._clock = clock.__class__()
        clock.advance(100)
        async with make_store(events=bounds) as on_time:
            ids = [await log.append(KEY, "get", {}) for log in (on_time, behind, on_time, behind)]
            assert [event.id for event in await on_time.read(KEY, None)] == ids
