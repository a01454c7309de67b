"""The memory store's sessions: everything that is asked of a session store."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from datetime import timedelta

import pytest

from mcp_tornado.sessions import (
    ClientInfo,
    DuplicateSession,
    RevisionConflict,
    Session,
    SessionStore,
    StoreUnavailable,
    system_clock,
)
from mcp_tornado.stores import memory as memory_module
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


UNENCODABLE = pytest.mark.parametrize(
    "value", [{1, 2}, object(), b"bytes", nested(100_000)], ids=["set", "object", "bytes", "nested too deeply"]
)


def seconds(count):
    return timedelta(seconds=count)


async def keys_of(store, after=None, limit=100):
    return [session.key for session in await store.page(after, limit)]


# create, get


async def test_a_session_comes_back_as_it_was_stored(store, clock):
    session = Session(
        key="k" * 43,
        created_at=clock(),
        last_seen_at=clock() + timedelta(microseconds=1),
        expires_at=clock() + seconds(100.123456),
        client=ClientInfo(remote_addr="::1", user_agent="a", name="ä", version="1", unknown={"new": [1]}),
        principal="someone",
        protocol_version="2025-03-26",
        client_params={"capabilities": {"sampling": {}}},
        initialized=True,
        journal=({"method": "logging/setLevel", "params": {"level": "info"}},),
        state={"deep": {"list": [1, None, 2.5, True, "x"]}},
        revision=3,
        unknown={"from a newer version": {"a": 1}},
    )
    await store.create(session)
    assert await store.get(session.key) == session
    assert await store.page(None, 1) == [session]


async def test_an_unknown_key_is_nothing(store):
    assert await store.get("unknown") is None


async def test_creating_never_overwrites(store, make_session):
    first = make_session(state={"mine": 1})
    await store.create(first)
    with pytest.raises(DuplicateSession):
        await store.create(make_session(state={"mine": 2}, principal="thief"))
    assert await store.get(first.key) == first
    assert await store.count() == 1
    assert await store.count("thief") == 0


async def test_of_many_who_create_the_same_key_one_succeeds(store, make_session):
    results = await asyncio.gather(
        *(store.create(make_session(state={"n": n})) for n in range(20)), return_exceptions=True
    )
    assert results.count(None) == 1
    assert sum(isinstance(result, DuplicateSession) for result in results) == 19
    assert (await store.get("key-0001")).state == {"n": results.index(None)}


async def test_a_duplicate_is_told_without_the_whole_key(store, make_session):
    await store.create(make_session(key="abcdefghijklm"))
    with pytest.raises(DuplicateSession) as caught:
        await store.create(make_session(key="abcdefghijklm"))
    assert "abcdefghi" not in str(caught.value)


async def test_changing_what_was_given_or_returned_changes_nothing_stored(store, make_session):
    state, params = {"list": [1]}, {"capabilities": {}}
    journal = [{"method": "m", "params": {"uri": "a"}}]
    await store.create(make_session(state=state, client_params=params, journal=journal))
    expected = await store.get("key-0001")

    state["list"].append(2)
    params["capabilities"]["x"] = 1
    journal[0]["params"]["uri"] = "b"
    assert await store.get("key-0001") == expected

    for returned in [await store.get("key-0001"), (await store.page(None, 1))[0]]:
        returned.state["list"].append(3)
        returned.client_params["capabilities"]["y"] = 1
        returned.journal[0]["params"]["uri"] = "c"
    assert await store.get("key-0001") == expected

    new_state = {"list": [4]}
    updated = await store.update("key-0001", {"state": new_state}, 0)
    new_state["list"].append(5)
    updated.state["list"].append(6)
    assert (await store.get("key-0001")).state == {"list": [4]}


@UNENCODABLE
async def test_a_session_that_cannot_be_stored_leaves_nothing_behind(store, make_session, value):
    with pytest.raises((TypeError, ValueError, RecursionError)):
        await store.create(make_session(state={"bad": value}, principal="someone"))
    assert (await store.get("key-0001"), await store.count(), await store.count("someone")) == (None, 0, 0)
    await store.create(make_session(principal="someone"))
    assert await store.count("someone") == 1


@pytest.mark.parametrize("value", [2**64 + 1, 10**30, "\ud800"], ids=["65 bits", "100 bits", "lone surrogate"])
async def test_what_was_stored_can_be_read_again_unchanged(store, make_session, value):
    """Python's own json reads and writes these; so does an application that keeps them in its state."""
    await store.create(make_session())
    assert (await store.update("key-0001", {"state": {"n": value}}, 0)).state == {"n": value}
    assert (await store.get("key-0001")).state == {"n": value}
    assert (await store.page(None, 1))[0].state == {"n": value}


# touch


async def test_a_touch_moves_both_times_and_nothing_else(store, make_session, clock):
    session = make_session(state={"a": 1})
    await store.create(session)
    now = clock.advance(10)
    assert await store.touch(session.key, now, now + seconds(200)) is True
    assert await store.get(session.key) == dataclasses.replace(session, last_seen_at=now, expires_at=now + seconds(200))


async def test_a_touch_of_an_unknown_session_does_nothing(store, clock):
    assert await store.touch("unknown", clock(), clock() + seconds(100)) is False
    assert await store.get("unknown") is None
    assert await store.count() == 0


@pytest.mark.parametrize(("seen", "expires"), [(-0.000001, 0), (0, -0.000001), (-5, 50), (5, -50)])
async def test_a_touch_never_moves_a_time_backwards(store, make_session, clock, seen, expires):
    clock.advance(50)
    session = make_session()
    await store.create(session)
    assert await store.touch(
        session.key, session.last_seen_at + seconds(seen), session.expires_at + seconds(expires)
    ) is (False)
    assert await store.get(session.key) == session


async def test_touches_that_arrive_out_of_order_leave_the_latest(store, make_session, clock):
    session = make_session(lives=1000)
    await store.create(session)
    clock.advance(100)
    moments = [clock() - seconds(age) for age in (30, 10, 50, 0, 20)]
    await asyncio.gather(*(store.touch(session.key, at, at + seconds(2000)) for at in moments))
    stored = await store.get(session.key)
    assert (stored.last_seen_at, stored.expires_at) == (clock(), clock() + seconds(2000))


async def test_a_session_lives_until_its_expiry_exactly(store, make_session, clock):
    session = make_session(lives=100)
    await store.create(session)
    clock.advance(99.999999)
    assert await store.count() == 1
    assert await keys_of(store) == [session.key]
    assert await store.touch(session.key, session.last_seen_at, session.expires_at)
    clock.advance(microseconds=1)
    assert await store.count() == 0
    assert await keys_of(store) == []
    assert not await store.touch(session.key, clock(), clock() + seconds(100))


@pytest.mark.parametrize("known_to_have_expired", [False, True])
async def test_nothing_resurrects_an_expired_session_that_is_not_swept_yet(
    store, make_session, clock, known_to_have_expired
):
    session = make_session(principal="someone")
    await store.create(session)
    clock.advance(100)
    if known_to_have_expired:
        clock.advance(10)
        assert await store.count() == 0
    assert not await store.touch(session.key, clock(), clock() + seconds(100))
    assert await store.update(session.key, {"expires_at": 2**60}, 0) is None
    assert await store.count() == 0
    assert await store.count("someone") == 0
    assert await store.page(None, 10) == []
    assert await store.get(session.key) in (None, session)


async def test_nothing_resurrects_a_deleted_session(store, make_session, clock):
    session = make_session()
    await store.create(session)
    await store.delete(session.key)
    assert not await store.touch(session.key, clock(), clock() + seconds(100))
    assert await store.update(session.key, {"initialized": True}, 0) is None
    assert await store.get(session.key) is None
    assert await store.count() == 0


# update


async def test_an_update_changes_the_named_fields_and_counts_the_revision(store, make_session):
    session = make_session(state={"a": 1}, unknown={"newer": 1})
    await store.create(session)
    changed = await store.update(session.key, {"initialized": True, "state": {"b": 2}}, 0)
    assert changed == dataclasses.replace(session, initialized=True, state={"b": 2}, revision=1)
    assert await store.get(session.key) == changed
    assert (await store.update(session.key, {}, 1)).revision == 2


async def test_an_update_from_another_revision_is_a_conflict_and_changes_nothing(store, make_session):
    session = make_session(revision=5)
    await store.create(session)
    for wrong in (0, 4, 6):
        with pytest.raises(RevisionConflict):
            await store.update(session.key, {"initialized": True}, wrong)
    assert await store.get(session.key) == session


async def test_of_many_updates_from_one_revision_one_succeeds(store, make_session):
    await store.create(make_session())
    results = await asyncio.gather(
        *(store.update("key-0001", {"state": {"n": n}}, 0) for n in range(50)), return_exceptions=True
    )
    (won,) = [result for result in results if isinstance(result, Session)]
    assert sum(isinstance(result, RevisionConflict) for result in results) == 49
    assert await store.get("key-0001") == won


async def test_an_update_of_an_unknown_session_is_nothing(store):
    assert await store.update("unknown", {"initialized": True}, 0) is None
    assert await store.get("unknown") is None


async def test_an_update_keeps_the_times_of_the_latest_touch_and_a_touch_keeps_the_update(store, make_session, clock):
    session = make_session()
    await store.create(session)
    now = clock.advance(10)
    await store.touch(session.key, now, now + seconds(100))
    changed = await store.update(session.key, {"state": {"a": 1}}, 0)
    assert (changed.last_seen_at, changed.expires_at) == (now, now + seconds(100))
    now = clock.advance(10)
    await store.touch(session.key, now, now + seconds(100))
    stored = await store.get(session.key)
    assert (stored.state, stored.revision, stored.last_seen_at) == ({"a": 1}, 1, now)


async def test_an_update_of_the_expiry_holds(store, make_session, clock):
    session = make_session(lives=1000)
    await store.create(session)
    sooner = session.to_dict()["expires_at"] - 900 * 1_000_000
    await store.update(session.key, {"expires_at": sooner}, 0)
    clock.advance(101)
    assert await store.count() == 0
    assert await store.sweep(clock(), 10) == 1
    assert await store.get(session.key) is None


async def test_a_session_that_changes_its_principal_counts_for_the_new_one(store, make_session, clock):
    await store.create(make_session(principal="one"))
    await store.update("key-0001", {"principal": "two"}, 0)
    assert (await store.count("one"), await store.count("two"), await store.count()) == (0, 1, 1)
    await store.update("key-0001", {"principal": None}, 1)
    assert (await store.count("one"), await store.count("two"), await store.count()) == (0, 0, 1)


@UNENCODABLE
async def test_an_update_that_cannot_be_stored_leaves_the_session_as_it_was(store, make_session, clock, value):
    session = make_session(principal="one")
    await store.create(session)
    with pytest.raises((TypeError, ValueError, RecursionError)):
        await store.update(session.key, {"state": {"bad": value}, "principal": "two"}, 0)
    assert await store.get(session.key) == session
    assert (await store.count("one"), await store.count("two"), await store.count()) == (1, 0, 1)
    clock.advance(200)
    assert await store.count() == 0, "it expires as any other"
    assert await store.sweep(clock(), 10) == 1, "and is swept"
    assert await store.get(session.key) is None


# delete


async def test_deleting_says_whether_there_was_a_session_and_is_idempotent(store, make_session):
    await store.create(make_session(principal="one"))
    assert await store.delete("key-0001") is True
    assert await store.delete("key-0001") is False
    assert await store.delete("unknown") is False
    assert (await store.get("key-0001"), await store.count(), await store.count("one")) == (None, 0, 0)


async def test_of_many_who_delete_a_session_one_did(store, make_session):
    await store.create(make_session())
    assert sorted(await asyncio.gather(*(store.delete("key-0001") for _ in range(20)))) == [False] * 19 + [True]


async def test_a_deleted_session_takes_its_events_along(store, make_session):
    await store.create(make_session())
    await store.create(make_session(key="other"))
    await store.append("key-0001", "GET", {"secret": "content"})
    await store.append("other", "GET", {"n": 1})
    await store.delete("key-0001")
    assert await store.read("key-0001", None) == []
    assert len(await store.read("other", None)) == 1
    await store.create(make_session())
    assert await store.read("key-0001", None) == []


# sweep


async def test_a_sweep_removes_what_has_expired_with_its_events_and_nothing_else(store, make_session, clock):
    await store.create(make_session(key="dead", lives=10, principal="one"))
    await store.append("dead", "GET", {"n": 1})
    await store.create(make_session(key="live", lives=100, principal="one"))
    await store.append("live", "GET", {"n": 1})
    clock.advance(10)
    assert await store.sweep(clock(), 100) == 1
    assert await store.get("dead") is None
    assert await store.read("dead", None) == []
    assert (await store.get("live")).key == "live"
    assert len(await store.read("live", None)) == 1
    assert await store.count("one") == 1
    assert await store.sweep(clock(), 100) == 0


async def test_a_sweep_removes_no_more_than_the_limit(store, make_session, clock):
    for number in range(10):
        await store.create(make_session(key=f"key-{number}", lives=10))
    clock.advance(50)
    assert await store.sweep(clock(), 4) == 4
    assert sum([await store.get(f"key-{number}") is not None for number in range(10)]) == 6
    assert await store.count() == 0
    assert await store.sweep(clock(), 0) == 0
    assert await store.sweep(clock(), 100) == 6


@pytest.mark.parametrize("known", [False, True])
async def test_a_touched_session_is_not_swept(store, make_session, clock, known):
    await store.create(make_session(key="touched", lives=10))
    await store.create(make_session(key="left alone", lives=10))
    clock.advance(9)
    assert await store.touch("touched", clock(), clock() + seconds(10))
    if known:
        assert await store.count() == 2
    clock.advance(5)
    assert await store.sweep(clock(), 100) == 1
    assert await store.count() == 1
    assert await keys_of(store) == ["touched"]
    clock.advance(5)
    assert await store.sweep(clock(), 100) == 1
    assert await store.get("touched") is None


async def test_sessions_that_expire_within_one_second_are_told_apart(store, make_session, clock):
    clock.to_the_next_second()
    for tenth in range(10):
        await store.create(make_session(key=f"tenth-{tenth}", lives=5 + tenth / 10, principal="one"))
    clock.advance(5.35)
    live = [f"tenth-{tenth}" for tenth in range(4, 10)]
    assert await store.count() == await store.count("one") == 6
    assert await keys_of(store) == live
    assert await store.sweep(clock(), 100) == 4
    assert await keys_of(store) == live
    assert await store.touch("tenth-4", clock(), clock() + seconds(100))
    clock.advance(0.6)
    assert await store.sweep(clock(), 100) == 5
    assert await keys_of(store) == ["tenth-4"]


async def test_a_session_stored_after_its_expiry_is_swept(store, make_session, clock):
    await store.create(make_session(lives=-100))
    assert await store.count() == 0
    assert await store.sweep(clock(), 10) == 1
    assert await store.get("key-0001") is None


async def test_a_sweep_leaves_what_had_not_expired_at_the_moment_it_is_given(store, make_session, clock):
    earlier = clock()
    await store.create(make_session(lives=10))
    clock.advance(20)
    assert await store.count() == 0
    assert await store.sweep(earlier, 10) == 0
    assert await store.get("key-0001") is not None


async def test_a_sweep_by_a_clock_a_little_behind_removes_all_that_had_expired_by_it(store, make_session, clock):
    for number in range(50):
        await store.create(make_session(key=f"before-{number}", lives=10))
        await store.create(make_session(key=f"since-{number}", lives=10.3))
    moment = clock.advance(10.1)
    clock.advance(0.3)
    assert await store.count() == 0
    assert await store.sweep(moment, 1000) == 50
    assert [await store.get(f"before-{number}") for number in range(50)] == [None] * 50
    assert await store.sweep(clock(), 1000) == 50


async def test_a_sweep_for_a_later_moment_ends_no_session_that_it_does_not_remove(store, make_session, clock):
    for number in range(5):
        await store.create(make_session(key=f"key-{number}", lives=10, principal="one"))
    assert await store.sweep(clock() + seconds(20), 2) == 2
    left = await keys_of(store)
    assert len(left) == 3
    assert await store.count() == await store.count("one") == 3
    for key in left:
        assert await store.touch(key, clock(), clock() + seconds(100))


async def test_a_big_sweep_lets_others_run_and_changes_meanwhile_hold(store, make_session, clock):
    many = 20 * memory_module._SLICE
    for number in range(many):
        await store.create(make_session(key=f"dead-{number}", lives=10, principal="one"))
    for number in range(100):
        await store.create(make_session(key=f"live-{number:03}", lives=10, principal="one"))
    clock.advance(5)
    for number in range(100):
        await store.touch(f"live-{number:03}", clock(), clock() + seconds(100))
    clock.advance(10)
    sweep = asyncio.create_task(store.sweep(clock(), 10 * many))
    turns = 0
    while not sweep.done():
        if turns < 10:
            await store.delete(f"live-{turns:03}")
            await store.create(make_session(key=f"new-{turns:03}", principal="one"))
            await store.touch(f"live-{turns + 50:03}", clock(), clock() + seconds(200))
            assert await store.count() == await store.count("one") == 100
        turns += 1
        await asyncio.sleep(0)
    assert await sweep == many
    assert turns >= 10
    assert await store.count() == await store.count("one") == 100
    assert await keys_of(store, limit=1000) == [
        *(f"live-{number:03}" for number in range(10, 100)),
        *(f"new-{number:03}" for number in range(10)),
    ]


@pytest.mark.parametrize("per_second", [1, 50, 1_000_000], ids=["1 a second", "50 a second", "all in one second"])
async def test_finding_what_has_expired_lets_others_run_however_the_expiries_are_spread(
    store, make_session, clock, per_second
):
    many = 20 * memory_module._SLICE
    clock.to_the_next_second()
    for number in range(many):
        await store.create(make_session(key=f"dead-{number}", lives=10 + number // per_second))
    await store.create(make_session(key="live", lives=100_000))
    clock.advance(50_000)
    counting = asyncio.create_task(store.count())
    turns = 0
    while not counting.done():
        turns += 1
        await asyncio.sleep(0)
    assert await counting == 1
    assert turns >= 10


async def test_a_sweep_by_a_real_clock_lets_others_run(make_session):
    """Who sweeps reads the clock before the store does, so that the two moments are never the same."""
    async with MemoryStore(system_clock) as store:
        many = 20 * memory_module._SLICE
        for number in range(many):
            await store.create(make_session(key=f"dead-{number}", lives=-10))
        assert await store.count() == 0
        sweep = asyncio.create_task(store.sweep(system_clock(), 10 * many))
        turns = 0
        while not sweep.done():
            turns += 1
            await asyncio.sleep(0)
        assert await sweep == many
        assert turns >= 10


async def test_two_sweeps_at_once_remove_each_session_once(store, make_session, clock):
    for number in range(1000):
        await store.create(make_session(key=f"key-{number}", lives=number % 7, principal="one"))
    clock.advance(20)
    assert sum(await asyncio.gather(*(store.sweep(clock(), 600) for _ in range(4)))) == 1000
    assert await store.count("one") == 0


async def test_what_is_gone_leaves_nothing_in_memory(store, make_session, clock):
    def held():
        found, to_visit, seen = set(), list(vars(store).values()), set()
        while to_visit:
            current = to_visit.pop()
            if id(current) not in seen and not isinstance(current, type):
                seen.add(id(current))
                if isinstance(current, str):
                    found.add(current)
                to_visit += gc.get_referents(current)
        return {text for text in found if text.startswith(("gone", "person"))}

    for number in range(20):
        await store.create(make_session(key=f"gone-{number}", lives=10 + number % 3, principal=f"person-{number % 4}"))
        await store.append(f"gone-{number}", "GET", {"n": number})
    await store.count()
    assert len(held()) >= 24
    for number in range(5):
        await store.delete(f"gone-{number}")
    clock.advance(11)
    await store.count()
    await store.update("gone-8", {"principal": "person-x"}, 0)
    await store.delete("gone-6")
    clock.advance(50)
    assert await store.sweep(clock(), 1000) == 14
    assert held() == set()


# count, page


async def test_counting_is_for_everybody_or_for_one_principal(store, make_session):
    for number, principal in enumerate(["one", "one", "two", None]):
        await store.create(make_session(key=f"key-{number}", principal=principal))
    assert await store.count() == 4
    assert [await store.count(principal) for principal in ("one", "two", "three", "")] == [2, 1, 0, 0]


async def test_a_principal_with_an_empty_name_is_a_principal(store, make_session):
    await store.create(make_session(principal=""))
    assert await store.count("") == 1


async def test_counts_hold_when_clients_come_expire_and_are_swept(store, make_session, clock):
    for number in range(30):
        await store.create(make_session(key=f"key-{number}", lives=1 + number, principal=f"p{number % 3}"))
    for elapsed in range(1, 31):
        clock.advance(1)
        assert await store.count() == 30 - elapsed
        if elapsed % 5 == 0:
            await store.sweep(clock(), 2)
        assert sum([await store.count(f"p{number}") for number in range(3)]) == 30 - elapsed


async def test_pages_are_in_key_order_after_the_given_key(store, make_session):
    for key in ["b", "d", "a", "C", "-", "_", "e"]:
        await store.create(make_session(key=key))
    assert await keys_of(store) == ["-", "C", "_", "a", "b", "d", "e"]
    assert await keys_of(store, limit=2) == ["-", "C"]
    assert await keys_of(store, after="C", limit=2) == ["_", "a"]
    assert await keys_of(store, after="c", limit=2) == ["d", "e"], "a key that is not there is a place all the same"
    assert await keys_of(store, after="e") == []
    assert await keys_of(store, limit=0) == []


async def test_paging_shows_every_session_that_stays_once_while_others_come_and_go(store, make_session):
    staying = [f"{number:02}-stays" for number in range(20)]
    going = [f"{number:02}-goes" for number in range(20)]
    for key in staying + going:
        await store.create(make_session(key=key))
    seen, after = [], None
    while page := await keys_of(store, after, 3):
        seen += page
        after = page[-1]
        if going:
            await store.delete(going.pop())
            await store.delete(after)
            await store.create(make_session(key=f"{after}-later"))
    assert [key for key in staying if key not in seen] == []
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen)


# open and closed


OPERATIONS = {
    "create": lambda store, session, now: store.create(session),
    "get": lambda store, session, now: store.get("k"),
    "touch": lambda store, session, now: store.touch("k", now, now),
    "update": lambda store, session, now: store.update("k", {}, 0),
    "delete": lambda store, session, now: store.delete("k"),
    "sweep": lambda store, session, now: store.sweep(now, 1),
    "count": lambda store, session, now: store.count(),
    "page": lambda store, session, now: store.page(None, 1),
    "ping": lambda store, session, now: store.ping(),
    "append": lambda store, session, now: store.append("@p", "s", {}),
    "read": lambda store, session, now: store.read("@p", None),
    "wait": lambda store, session, now: store.wait("@p", None, 0),
    "claim": lambda store, session, now: store.claim("l", "o", 1),
    "release": lambda store, session, now: store.release("l", "o"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_store_that_was_not_entered_or_is_closed_is_unavailable(clock, make_session, operation):
    store = MemoryStore(clock)
    with pytest.raises(StoreUnavailable):
        await OPERATIONS[operation](store, make_session(), clock())
    async with store as entered:
        assert entered is store
        await OPERATIONS[operation](store, make_session(), clock())
    with pytest.raises(StoreUnavailable):
        await OPERATIONS[operation](store, make_session(), clock())


async def test_an_open_store_answers(store):
    assert await store.ping() is None


async def test_closing_wakes_those_who_wait(clock, settle):
    async with MemoryStore(clock) as store:
        waiting = asyncio.create_task(store.wait("@p", None, 1000))
        await settle()
        assert not waiting.done()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(waiting, 10)


def test_the_memory_store_says_that_processes_cannot_share_it():
    assert MemoryStore.shared is False
    assert issubclass(MemoryStore, SessionStore)
