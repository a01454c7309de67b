"""The memory store: its index of expiries, its sweep in batches, and what it keeps in memory."""

from __future__ import annotations

import asyncio
import gc

import pytest

from mcp_tornado.sessions import system_clock
from mcp_tornado.stores import memory as memory_module
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.testing.base import deadline, keys_of, seconds

pytestmark = pytest.mark.anyio


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


UNENCODABLE = pytest.mark.parametrize("value", [object(), nested(100_000)], ids=["object", "nested too deeply"])


async def assert_yields_often(task):
    """Check that a task yields to the event loop at least ten times before it ends."""
    for _ in range(10):
        assert not task.done()
        await asyncio.sleep(0)


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
    assert await store.count() == 0, "it expires like any other session"
    assert await store.sweep(clock(), 10) == 1, "and is swept"
    assert await store.get(session.key) is None


async def test_sessions_that_expire_within_one_second_expire_one_after_the_other(store, make_session, clock):
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


async def test_a_sweep_with_a_clock_slightly_behind_removes_all_sessions_expired_by_that_clock(
    store, make_session, clock
):
    for number in range(50):
        await store.create(make_session(key=f"before-{number}", lives=10))
        await store.create(make_session(key=f"since-{number}", lives=10.3))
    moment = clock.advance(10.1)
    clock.advance(0.3)
    assert await store.count() == 0
    assert await store.sweep(moment, 1000) == 50
    assert [await store.get(f"before-{number}") for number in range(50)] == [None] * 50
    assert await store.sweep(clock(), 1000) == 50


async def test_a_sweep_for_a_later_time_does_not_affect_sessions_that_it_does_not_remove(store, make_session, clock):
    for number in range(5):
        await store.create(make_session(key=f"key-{number}", lives=10, principal="one"))
    assert await store.sweep(clock() + seconds(20), 2) == 2
    left = await keys_of(store)
    assert len(left) == 3
    assert await store.count() == await store.count("one") == 3
    for key in left:
        assert await store.touch(key, clock(), clock() + seconds(100))


async def test_a_large_sweep_yields_to_the_event_loop_and_changes_during_it_are_kept(store, make_session, clock):
    many = 20 * memory_module._BATCH_SIZE
    for number in range(many):
        await store.create(make_session(key=f"dead-{number}", lives=10, principal="one"))
    for number in range(100):
        await store.create(make_session(key=f"live-{number:03}", lives=10, principal="one"))
    clock.advance(5)
    for number in range(100):
        await store.touch(f"live-{number:03}", clock(), clock() + seconds(100))
    clock.advance(10)
    sweep = asyncio.create_task(store.sweep(clock(), 10 * many))
    for turn in range(10):
        assert not sweep.done()
        await store.delete(f"live-{turn:03}")
        await store.create(make_session(key=f"new-{turn:03}", principal="one"))
        await store.touch(f"live-{turn + 50:03}", clock(), clock() + seconds(200))
        assert await store.count() == await store.count("one") == 100
        await asyncio.sleep(0)  # lets the sweep go on with its next batch
    assert await sweep == many
    assert await store.count() == await store.count("one") == 100
    assert await keys_of(store, limit=1000) == [
        *(f"live-{number:03}" for number in range(10, 100)),
        *(f"new-{number:03}" for number in range(10)),
    ]


@pytest.mark.parametrize("per_second", [1, 50, 1_000_000], ids=["1 a second", "50 a second", "all in one second"])
async def test_a_count_yields_to_the_event_loop_for_any_distribution_of_expiries(
    store, make_session, clock, per_second
):
    many = 20 * memory_module._BATCH_SIZE
    clock.to_the_next_second()
    for number in range(many):
        await store.create(make_session(key=f"dead-{number}", lives=10 + number // per_second))
    await store.create(make_session(key="live", lives=100_000))
    clock.advance(50_000)
    counting = asyncio.create_task(store.count())
    await assert_yields_often(counting)
    assert await counting == 1


async def test_a_sweep_with_a_real_clock_yields_to_the_event_loop(make_session):
    """The caller of `sweep` reads the clock before the store does, so the two times always differ."""
    async with MemoryStore(system_clock) as store:
        many = 20 * memory_module._BATCH_SIZE
        for number in range(many):
            await store.create(make_session(key=f"dead-{number}", lives=-10))
        assert await store.count() == 0
        sweep = asyncio.create_task(store.sweep(system_clock(), 10 * many))
        await assert_yields_often(sweep)
        assert await sweep == many


async def test_removed_sessions_leave_nothing_in_memory(store, make_session, clock):
    def texts_in_memory():
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
    assert len(texts_in_memory()) >= 24
    for number in range(5):
        await store.delete(f"gone-{number}")
    clock.advance(11)
    await store.count()
    await store.update("gone-8", {"principal": "person-x"}, 0)
    await store.delete("gone-6")
    clock.advance(50)
    assert await store.sweep(clock(), 1000) == 14
    assert texts_in_memory() == set()


async def test_tasks_that_no_longer_wait_leave_nothing_in_memory(store, make_session):
    await store.create(make_session())
    waiting = [asyncio.create_task(store.wait(key, None, 1000)) for key in ("key-0001", "@p")]
    await asyncio.sleep(0)
    assert set(store._events.waiters.keys()) == {"key-0001", "@p"}
    await store.delete("key-0001")
    async with deadline("the waiter of the deleted session was not woken"):
        await waiting[0]
    waiting[1].cancel()
    await asyncio.wait(waiting)
    assert (list(store._events.keys()), list(store._events.waiters.keys())) == ([], [])


async def test_a_sweep_for_a_later_time_keeps_leases_that_have_not_ended(store, clock):
    await store.claim("lease", "me", 10)
    now = clock()
    await store.sweep(clock.__class__().advance(20), 10)
    assert clock() == now
    assert await store.claim("lease", "you", 10) is False


@pytest.mark.parametrize("tick", [0, 1], ids=["a clock that stops", "a clock that runs"])
async def test_ended_leases_leave_nothing_in_memory(clock, tick):
    async with MemoryStore(lambda: clock.advance(microseconds=tick)) as store:
        for number in range(100):
            await store.claim(f"lease-{number}", "me", 10)
        clock.advance(10)
        await store.sweep(clock(), 10)
        assert store._events.leases.held == {}
