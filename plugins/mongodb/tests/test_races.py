"""What another process does between the steps of an operation."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mcp_tornado.stores import SessionGone, StreamEnded, to_microseconds

pytestmark = pytest.mark.anyio

KEY = "key-0001-and-so-on"


class Interrupted:
    """A collection on which something else happens, once, before a method is called."""

    def __init__(self, collection, method, meanwhile):
        self._collection, self._method, self._meanwhile = collection, method, [meanwhile]

    def __getattr__(self, name):
        called = getattr(self._collection, name)
        if name != self._method or not self._meanwhile:
            return called

        async def call(*arguments, **options):
            while self._meanwhile:
                await self._meanwhile.pop()()
            return await called(*arguments, **options)

        return call


def before(part, collection, method, meanwhile):
    setattr(part, collection, Interrupted(getattr(part, collection), method, meanwhile))


@pytest.fixture
async def store(place, make_session):
    async with place.make_store() as store:
        await store.create(make_session(KEY))
        yield store


@pytest.mark.parametrize("named", ["expires_at", "last_seen_at"])
async def test_a_touch_between_the_steps_of_an_update_is_not_lost_where_the_update_names_one_time(store, clock, named):
    touched, expires, updated = (clock() + timedelta(seconds=later) for later in (50, 200, 300))
    before(store._opened.sessions, "_sessions", "find_one_and_update", lambda: store.touch(KEY, touched, expires))
    changed = await store.update(KEY, {named: to_microseconds(updated)}, 0)
    expected = {"last_seen_at": touched, "expires_at": expires, named: updated}
    assert {name: getattr(changed, name) for name in expected} == expected
    assert await store.get(KEY) == changed


async def test_a_touch_between_the_steps_of_an_update_that_names_no_time_is_in_what_it_returns(store, clock):
    touched, expires = clock() + timedelta(seconds=50), clock() + timedelta(seconds=200)
    before(store._opened.sessions, "_sessions", "find_one_and_update", lambda: store.touch(KEY, touched, expires))
    changed = await store.update(KEY, {"state": {"n": 1}}, 0)
    assert (changed.last_seen_at, changed.expires_at, changed.state) == (touched, expires, {"n": 1})
    assert await store.get(KEY) == changed


async def test_a_deletion_between_the_steps_of_an_update_is_not_undone(store):
    before(store._opened.sessions, "_sessions", "find_one_and_update", lambda: store.delete(KEY))
    assert await store.update(KEY, {"state": {}}, 0) is None
    assert await store.get(KEY) is None


async def test_a_touch_between_the_steps_of_a_sweep_keeps_the_session_and_its_events(store, make_session, clock):
    await store.create(make_session("other"))
    ids = [await store.append(KEY, "get", {"n": number}) for number in range(3)]
    clock.advance(99)
    later = clock() + timedelta(seconds=1000)
    before(store._opened.sessions, "_sessions", "delete_many", lambda: store.touch(KEY, later, later))
    assert await store.sweep(clock() + timedelta(seconds=50), 10) == 1
    assert await store.get("other") is None
    assert [event.id for event in await store.read(KEY, None)] == ids


async def test_a_deletion_between_the_steps_of_an_append_leaves_no_event(place, store, make_session):
    await store.append(KEY, "get", {"n": 1})
    before(store._opened.events, "_sessions", "update_one", lambda: store.delete(KEY))
    with pytest.raises(SessionGone):
        await store.append(KEY, "get", {"n": 2})
    await store.create(make_session(KEY))
    assert await store.read(KEY, None) == []


async def test_the_end_of_a_session_between_the_steps_of_an_append_is_noticed(store, clock):
    async def expire():
        clock.advance(1000)

    await store.append(KEY, "get", {"n": 1})
    before(store._opened.events, "_archive", "insert_one", expire)
    with pytest.raises(SessionGone):
        await store.append(KEY, "get", {"n": 2})
    assert [event.message["n"] for event in await store.read(KEY, None)] == [1]


async def test_an_append_between_the_steps_of_another_comes_first(place, store):
    async with place.make_store() as other:
        await store.append(KEY, "get", {"n": 1})
        before(store._opened.events, "_sessions", "update_one", lambda: other.append(KEY, "get", {"n": 2}))
        await store.append(KEY, "get", {"n": 3})
        assert [event.message["n"] for event in await store.read(KEY, None)] == [1, 2, 3]


async def test_the_end_of_a_stream_between_the_steps_of_an_append_is_noticed(place, store):
    async with place.make_store() as other:
        before(store._opened.events, "_sessions", "update_one", lambda: other.append(KEY, "a", {"n": 1}, final=True))
        with pytest.raises(StreamEnded):
            await store.append(KEY, "a", {"n": 2})
        assert [event.message["n"] for event in await store.read(KEY, None)] == [1]


async def test_appends_between_the_steps_of_a_read_show_no_gap(place, store):
    async with place.make_store() as other:
        for number in range(1, 4):
            await store.append(KEY, "get", {"n": number})
        events = store._opened.events
        archived = events._archived

        async def later(*arguments):
            for number in range(4, 7):
                await other.append(KEY, "get", {"n": number})
            return await archived(*arguments)

        events._archived = later
        first = await store.read(KEY, None)
        assert [event.message["n"] for event in first] == [1, 2, 3]
        events._archived = archived
        assert [event.message["n"] for event in await store.read(KEY, first[-1].id)] == [4, 5, 6]


async def test_of_the_streams_that_ended_as_many_are_remembered_as_events(place, make_session):
    async with place.make_store(events={"max_per_session": 2}) as store:
        await store.create(make_session(KEY))
        for stream in ("a", "b", "c"):
            await store.append(KEY, stream, {}, final=True)
        for stream in ("b", "c"):
            with pytest.raises(StreamEnded):
                await store.append(KEY, stream, {})
        await store.append(KEY, "a", {})
        assert place.database["sessions"].find_one({"_id": KEY})["ended"] == ["b", "c"]


@pytest.mark.parametrize(("other_owner", "got"), [("me", True), ("you", False)])
async def test_a_claim_between_the_steps_of_another_counts(store, other_owner, got):
    before(store._opened.leases, "_leases", "insert_one", lambda: store.claim("lease", other_owner, 10))
    assert await store.claim("lease", "me", 10) is got
    assert await store.claim("lease", other_owner, 10) is True
