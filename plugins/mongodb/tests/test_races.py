"""Operations of other processes between the steps of an operation."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mcp_tornado.stores import SessionGone, StreamEnded, to_microseconds

pytestmark = pytest.mark.anyio

KEY = "key-0001-and-so-on"


class InterruptedCollection:
    """A collection that runs another operation once, before a method is called."""

    def __init__(self, collection, method, operation):
        self._collection, self._method, self._operations = collection, method, [operation]

    def __getattr__(self, name):
        called = getattr(self._collection, name)
        if name != self._method or not self._operations:
            return called

        async def call(*arguments, **options):
            while self._operations:
                await self._operations.pop()()
            return await called(*arguments, **options)

        return call


def interrupt(part, collection, method, operation):
    """Run an operation once, before a method of a collection is called."""
    setattr(part, collection, InterruptedCollection(getattr(part, collection), method, operation))


@pytest.fixture
async def store(backend, make_session):
    async with backend.make_store() as store:
        await store.create(make_session(KEY))
        yield store


@pytest.mark.parametrize("field", ["expires_at", "last_seen_at"])
async def test_a_touch_between_the_steps_of_an_update_that_sets_one_time_is_not_lost(store, clock, field):
    touched, expires, updated = (clock() + timedelta(seconds=later) for later in (50, 200, 300))
    interrupt(store._opened.sessions, "_sessions", "find_one_and_update", lambda: store.touch(KEY, touched, expires))
    changed = await store.update(KEY, {field: to_microseconds(updated)}, 0)
    expected = {"last_seen_at": touched, "expires_at": expires, field: updated}
    assert {name: getattr(changed, name) for name in expected} == expected
    assert await store.get(KEY) == changed


async def test_an_update_that_sets_no_time_returns_the_times_of_a_touch_between_its_steps(store, clock):
    touched, expires = clock() + timedelta(seconds=50), clock() + timedelta(seconds=200)
    interrupt(store._opened.sessions, "_sessions", "find_one_and_update", lambda: store.touch(KEY, touched, expires))
    changed = await store.update(KEY, {"state": {"n": 1}}, 0)
    assert (changed.last_seen_at, changed.expires_at, changed.state) == (touched, expires, {"n": 1})
    assert await store.get(KEY) == changed


async def test_an_update_does_not_undo_a_deletion_between_its_steps(store):
    interrupt(store._opened.sessions, "_sessions", "find_one_and_update", lambda: store.delete(KEY))
    assert await store.update(KEY, {"state": {}}, 0) is None
    assert await store.get(KEY) is None


async def test_a_sweep_keeps_a_session_that_is_touched_between_its_steps(store, make_session, clock):
    await store.create(make_session("other"))
    ids = [await store.append(KEY, "get", {"n": number}) for number in range(3)]
    clock.advance(99)
    later = clock() + timedelta(seconds=1000)
    interrupt(store._opened.sessions, "_sessions", "delete_many", lambda: store.touch(KEY, later, later))
    assert await store.sweep(clock() + timedelta(seconds=50), 10) == 1
    assert await store.get("other") is None
    assert [event.id for event in await store.read(KEY, None)] == ids


async def test_an_append_leaves_no_event_after_a_deletion_between_its_steps(store, make_session):
    await store.append(KEY, "get", {"n": 1})
    interrupt(store._opened.events, "_sessions", "update_one", lambda: store.delete(KEY))
    with pytest.raises(SessionGone):
        await store.append(KEY, "get", {"n": 2})
    await store.create(make_session(KEY))
    assert await store.read(KEY, None) == []


async def test_an_append_fails_when_the_session_expires_between_its_steps(store, clock):
    async def expire():
        clock.advance(1000)

    await store.append(KEY, "get", {"n": 1})
    interrupt(store._opened.events, "_archive", "insert_one", expire)
    with pytest.raises(SessionGone):
        await store.append(KEY, "get", {"n": 2})
    assert [event.message["n"] for event in await store.read(KEY, None)] == [1]


async def test_an_append_between_the_steps_of_another_one_comes_first(backend, store):
    async with backend.make_store() as other:
        await store.append(KEY, "get", {"n": 1})
        interrupt(store._opened.events, "_sessions", "update_one", lambda: other.append(KEY, "get", {"n": 2}))
        await store.append(KEY, "get", {"n": 3})
        assert [event.message["n"] for event in await store.read(KEY, None)] == [1, 2, 3]


async def test_an_append_fails_when_the_stream_ends_between_its_steps(backend, store):
    async with backend.make_store() as other:
        interrupt(store._opened.events, "_sessions", "update_one", lambda: other.append(KEY, "a", {"n": 1}, final=True))
        with pytest.raises(StreamEnded):
            await store.append(KEY, "a", {"n": 2})
        assert [event.message["n"] for event in await store.read(KEY, None)] == [1]


async def test_a_read_has_no_gap_after_appends_between_its_steps(backend, store):
    async with backend.make_store() as other:
        for number in range(1, 4):
            await store.append(KEY, "get", {"n": number})
        events = store._opened.events
        read_archived = events._read_archived

        async def append_and_read_archived(*arguments):
            for number in range(4, 7):
                await other.append(KEY, "get", {"n": number})
            return await read_archived(*arguments)

        events._read_archived = append_and_read_archived
        first = await store.read(KEY, None)
        assert [event.message["n"] for event in first] == [1, 2, 3]
        events._read_archived = read_archived
        assert [event.message["n"] for event in await store.read(KEY, first[-1].id)] == [4, 5, 6]


async def test_the_ended_streams_are_bounded_by_the_maximum_number_of_events(backend, make_session):
    async with backend.make_store(events={"max_per_session": 2}) as store:
        await store.create(make_session(KEY))
        for stream in ("a", "b", "c"):
            await store.append(KEY, stream, {}, final=True)
        for stream in ("b", "c"):
            with pytest.raises(StreamEnded):
                await store.append(KEY, stream, {})
        await store.append(KEY, "a", {})
        assert backend.database["sessions"].find_one({"_id": KEY})["ended"] == ["b", "c"]


@pytest.mark.parametrize(("other_owner", "is_claimed"), [("me", True), ("you", False)])
async def test_a_claim_respects_a_claim_between_its_steps(store, other_owner, is_claimed):
    interrupt(store._opened.leases, "_leases", "insert_one", lambda: store.claim("lease", other_owner, 10))
    assert await store.claim("lease", "me", 10) is is_claimed
    assert await store.claim("lease", other_owner, 10) is True
