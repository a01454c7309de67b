"""What is particular to the memory store: its index of expiries, its sweep that lets others run, what it holds."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta

import pytest

from mcp_tornado.sessions import system_clock
from mcp_tornado.stores import memory as memory_module
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


UNENCODABLE = pytest.mark.parametrize("value", [object(), nested(100_000)], ids=["object", "nested too deeply"])


def seconds(count):
    return timedelta(seconds=count)


async def keys_of(store, after=None, limit=100):
    return [session.key for session in await store.page(after, limit)]


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


async def test_waiting_leaves_nothing_in_memory(store, make_session, settle):
    await store.create(make_session())
    waiting = [asyncio.create_task(store.wait(key, None, 1000)) for key in ("key-0001", "@p")]
    await settle()
    await store.delete("key-0001")
    await asyncio.wait_for(waiting[0], 10)
    waiting[1].cancel()
    await asyncio.wait(waiting)
    assert (list(store._events.keys()), list(store._events.waiters.keys())) == ([], [])


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
        assert store._events.leases.held == {}
