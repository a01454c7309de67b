"""What is gone leaves nothing behind in the file, and nothing in it grows without bound."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from mcp_tornado_sqlite import sqlite_store

from mcp_tornado.stores import StreamEnded

pytestmark = pytest.mark.anyio

DAY = 86_400
TABLES = ("sessions", "logs", "events", "ended_streams", "leases")


@pytest.fixture
def stored(rows):
    """Return how many rows each table has, except for those that have none."""

    def count():
        counts = {table: rows(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}
        return {table: number for table, number in counts.items() if number}

    return count


async def fill(store, make_session, number):
    key = f"key-{number:04}"
    await store.create(make_session(key=key, principal="someone"))
    for stream in "abc":
        await store.append(key, stream, {"n": 1}, final=True)
    await store.claim(f"lease-{key}", "me", 100)


async def test_what_is_deleted_leaves_nothing(store, make_session, stored):
    for number in range(3):
        await fill(store, make_session, number)
        await store.delete(f"key-{number:04}")
    await store.append("@p", "s", {}, final=True)
    await store.delete("@p")
    assert stored() == {"leases": 3}


async def test_what_is_swept_leaves_nothing_however_much_it_is(store, make_session, clock, stored):
    await asyncio.gather(*(fill(store, make_session, number) for number in range(450)))
    assert stored() == {"sessions": 450, "logs": 450, "events": 1350, "ended_streams": 1350, "leases": 450}
    clock.advance(100)
    assert await store.sweep(clock(), 1000) == 450
    assert stored() == {}


@pytest.mark.parametrize(("sessions", "events"), [(1000, 0), (8, 1000)], ids=["many sessions", "many events"])
async def test_a_big_sweep_lets_others_write_in_between(store, make_session, clock, sessions, events):
    keys = [f"key-{number}" for number in range(sessions)]
    await asyncio.gather(*(store.create(make_session(key=key)) for key in keys))
    await asyncio.gather(*(store.append(key, "s", {"n": number}) for key in keys for number in range(events)))
    clock.advance(100)
    sweep = asyncio.create_task(store.sweep(clock(), 10_000))
    await asyncio.sleep(0)  # it has put its first share of the work into the writer's queue, where ours is the next
    (left,) = await store._entered().writer.run(
        lambda connection: connection.execute("SELECT count(*) FROM sessions").fetchone()
    )
    assert 0 < left < sessions
    assert await sweep == sessions


async def test_a_sweep_leaves_a_session_that_is_touched_between_its_transactions(store, make_session, clock):
    await asyncio.gather(*(store.create(make_session(key=f"key-{number:04}", lives=10)) for number in range(1000)))
    later = clock() + timedelta(seconds=1000)
    sweep = asyncio.create_task(store.sweep(clock() + timedelta(seconds=20), 10_000))
    touched = await store.touch("key-0999", clock(), later)
    assert await sweep == 1000 - touched
    assert await store.count() == touched


async def test_the_count_is_exact_after_much_coming_and_going(store, make_session, clock):
    for number in range(40):
        await store.create(make_session(key=f"key-{number}", lives=1 + number))
    for number in range(0, 40, 4):
        await store.delete(f"key-{number}")
        await store.delete(f"key-{number}")
    clock.advance(20)
    assert await store.count() == 15
    await store.sweep(clock(), 5)
    assert await store.count() == 15
    await store.sweep(clock(), 100)
    assert await store.count() == 15


async def test_events_that_the_bounds_evict_leave_the_file(make_store, make_session, clock, rows):
    async with make_store(events={"max_per_session": 10, "max_bytes": 1000, "ttl_seconds": 60}) as store:
        await store.create(make_session(lives=DAY))

        def kept():
            return [number for (number,) in rows("SELECT number FROM events ORDER BY number")]

        for number in range(1, 31):
            await store.append("key-0001", "s", {"n": number})
        assert kept() == list(range(21, 31))
        await store.append("key-0001", "s", {"filling": "x" * 955})
        assert kept() == [28, 29, 30, 31]
        clock.advance(61)
        await store.append("key-0001", "s", {})
        assert kept() == [32]


async def test_a_clock_that_is_behind_makes_no_gap(path, make_store, clock):
    def behind():
        return clock() - timedelta(seconds=50)

    bounds = {"events": {"ttl_seconds": 60}}
    async with make_store(**bounds) as store, sqlite_store(f"sqlite:///{path}", bounds, behind) as another:
        for number, log in enumerate([store, another, store]):
            await log.append("@p", "s", {"n": number})
        clock.advance(30)
        assert [event.message["n"] for event in await store.read("@p", None)] == [0, 1, 2]
        await store.append("@p", "s", {"n": 3})
        clock.advance(30)
        assert [event.message["n"] for event in await store.read("@p", None)] == [0, 1, 2, 3]


async def test_as_many_ended_streams_are_remembered_as_there_may_be_events(make_store, stored):
    async with make_store(events={"max_per_session": 5}) as store:
        for number in range(20):
            await store.append("@p", f"stream-{number}", {}, final=True)
        assert stored()["ended_streams"] == 5
        for number in range(15, 20):
            with pytest.raises(StreamEnded):
                await store.append("@p", f"stream-{number}", {})
        await store.append("@p", "stream-14", {})


async def test_events_of_a_process_that_is_gone_are_swept_after_a_day(make_store, clock, stored):
    async with make_store() as store:
        await store.append("@gone", "s", {}, final=True)
        clock.advance(DAY)
        await store.sweep(clock(), 10)
        assert stored() == {"logs": 1, "events": 1, "ended_streams": 1}
        clock.advance(1)
        assert await store.sweep(clock(), 10) == 0
        assert stored() == {}


async def test_events_of_a_process_that_waits_for_more_are_kept_for_ever(make_store, clock):
    async with make_store() as store, make_store() as another:
        first = await store.append("@here", "s", {"n": 1})
        waiting = asyncio.create_task(store.wait("@here", first, 1000))
        for _ in range(10):
            clock.advance(DAY / 2)
            await store.sweep(clock(), 10)
            await another.sweep(clock(), 10)
        assert not waiting.done()
        second = await another.append("@here", "s", {"n": 2})
        assert await waiting is True
        assert [event.id for event in await store.read("@here", first)] == [second]


async def test_what_is_noted_for_waiters_stays_short(store, rows):
    await asyncio.gather(*(store.append("@p", "s", {"n": n}) for n in range(3000)))
    assert rows("SELECT count(*) FROM changes")[0][0] <= 1000


async def test_who_was_not_told_of_too_many_changes_is_woken_all_the_same(make_store, path):
    async with make_store() as store:
        waiting = asyncio.create_task(store.wait("@p", None, 30))
        for _ in range(20):
            await store.ping()
        with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
            # In one transaction, so that nobody can look in between.
            connection.executemany("INSERT INTO changes (key) VALUES (?)", [("@other",)] * 5000)
            connection.execute("DELETE FROM changes WHERE id < 4500")
        assert await waiting is True, "woken, not out of time"


async def test_the_wal_file_does_not_grow_with_what_is_written(make_store, path):
    wal = path.with_name(path.name + "-wal")
    async with make_store() as store, make_store() as another:
        waiting = asyncio.create_task(another.wait("@nobody", None, 1000))

        async def write(number):
            for _ in range(100):
                await store.append(f"@{number}", "s", {"filling": "x" * 20_000})
                await another.read(f"@{number}", None, limit=5)

        await asyncio.gather(*(write(number) for number in range(20)))
        assert path.stat().st_size > 15_000_000
        assert wal.stat().st_size < 15_000_000
        waiting.cancel()
        await asyncio.wait([waiting])
