"""Removed sessions, events and leases leave no rows in the file, and no table grows without bound."""

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
def count_rows(query):
    """Return a function that returns the number of rows of each table that is not empty."""

    def count():
        counts = {table: query(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}
        return {table: number for table, number in counts.items() if number}

    return count


async def create_with_events_and_lease(store, make_session, number):
    key = f"key-{number:04}"
    await store.create(make_session(key=key, principal="someone"))
    for stream in "abc":
        await store.append(key, stream, {"n": 1}, final=True)
    await store.claim(f"lease-{key}", "me", 100)


async def test_a_deleted_session_or_process_leaves_no_rows(store, make_session, count_rows):
    for number in range(3):
        await create_with_events_and_lease(store, make_session, number)
        await store.delete(f"key-{number:04}")
    await store.append("@p", "s", {}, final=True)
    await store.delete("@p")
    assert count_rows() == {"leases": 3}


async def test_a_sweep_of_many_sessions_leaves_no_rows(store, make_session, clock, count_rows):
    await asyncio.gather(*(create_with_events_and_lease(store, make_session, number) for number in range(450)))
    assert count_rows() == {"sessions": 450, "logs": 450, "events": 1350, "ended_streams": 1350, "leases": 450}
    clock.advance(100)
    assert await store.sweep(clock(), 1000) == 450
    assert count_rows() == {}


@pytest.mark.parametrize(("sessions", "events"), [(1000, 0), (8, 1000)], ids=["many sessions", "many events"])
async def test_a_large_sweep_lets_other_jobs_run_between_its_transactions(store, make_session, clock, sessions, events):
    keys = [f"key-{number}" for number in range(sessions)]
    await asyncio.gather(*(store.create(make_session(key=key)) for key in keys))
    await asyncio.gather(*(store.append(key, "s", {"n": number}) for key in keys for number in range(events)))
    clock.advance(100)
    sweep = asyncio.create_task(store.sweep(clock(), 10_000))
    await asyncio.sleep(0)  # the sweep puts its first job into the queue of the writer; the job below is the next one
    (left,) = await store._require_open().writer.run(
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


async def test_the_count_is_exact_after_many_creations_deletions_and_sweeps(store, make_session, clock):
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


async def test_evicted_events_are_removed_from_the_file(make_store, make_session, clock, query):
    async with make_store(events={"max_per_session": 10, "max_bytes": 1000, "ttl_seconds": 60}) as store:
        await store.create(make_session(lives=DAY))

        def stored_numbers():
            return [number for (number,) in query("SELECT number FROM events ORDER BY number")]

        for number in range(1, 31):
            await store.append("key-0001", "s", {"n": number})
        assert stored_numbers() == list(range(21, 31))
        await store.append("key-0001", "s", {"filling": "x" * 955})
        assert stored_numbers() == [28, 29, 30, 31]
        clock.advance(61)
        await store.append("key-0001", "s", {})
        assert stored_numbers() == [32]


async def test_a_clock_that_is_behind_leaves_no_gap_in_the_events(path, make_store, clock):
    def slow_clock():
        return clock() - timedelta(seconds=50)

    bounds = {"events": {"ttl_seconds": 60}}
    async with make_store(**bounds) as store, sqlite_store(f"sqlite:///{path}", bounds, slow_clock) as another:
        for number, log in enumerate([store, another, store]):
            await log.append("@p", "s", {"n": number})
        clock.advance(30)
        assert [event.message["n"] for event in await store.read("@p", None)] == [0, 1, 2]
        await store.append("@p", "s", {"n": 3})
        clock.advance(30)
        assert [event.message["n"] for event in await store.read("@p", None)] == [0, 1, 2, 3]


async def test_the_ended_streams_are_bounded_by_the_maximum_number_of_events(make_store, count_rows):
    async with make_store(events={"max_per_session": 5}) as store:
        for number in range(20):
            await store.append("@p", f"stream-{number}", {}, final=True)
        assert count_rows()["ended_streams"] == 5
        for number in range(15, 20):
            with pytest.raises(StreamEnded):
                await store.append("@p", f"stream-{number}", {})
        await store.append("@p", "stream-14", {})


async def test_events_of_an_idle_process_are_swept_after_a_day(make_store, clock, count_rows):
    async with make_store() as store:
        await store.append("@gone", "s", {}, final=True)
        clock.advance(DAY)
        await store.sweep(clock(), 10)
        assert count_rows() == {"logs": 1, "events": 1, "ended_streams": 1}
        clock.advance(1)
        assert await store.sweep(clock(), 10) == 0
        assert count_rows() == {}


async def test_events_of_a_process_that_waits_are_never_swept(make_store, start_waiting, clock):
    async with make_store() as store, make_store() as another:
        first = await store.append("@here", "s", {"n": 1})
        waiting = await start_waiting(store, "@here", after=first, timeout=1000)
        for _ in range(10):
            clock.advance(DAY / 2)
            await store.sweep(clock(), 10)
            await another.sweep(clock(), 10)
        assert not waiting.done()
        second = await another.append("@here", "s", {"n": 2})
        assert await waiting is True
        assert [event.id for event in await store.read("@here", first)] == [second]


async def test_the_table_of_changes_is_bounded(store, query):
    await asyncio.gather(*(store.append("@p", "s", {"n": n}) for n in range(3000)))
    assert query("SELECT count(*) FROM changes")[0][0] <= 1000


async def test_a_waiter_is_woken_when_changes_were_removed_before_they_were_read(make_store, start_waiting, path):
    async with make_store() as store:
        waiting = await start_waiting(store, "@p")
        with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
            # In one transaction, so that the store cannot read some of the changes before they are removed.
            connection.executemany("INSERT INTO changes (key) VALUES (?)", [("@other",)] * 5000)
            connection.execute("DELETE FROM changes WHERE id < 4500")
        assert await waiting is True, "woken, not timed out"


async def test_the_wal_file_stays_smaller_than_the_written_data(make_store, start_waiting, path):
    wal = path.with_name(path.name + "-wal")
    async with make_store() as store, make_store() as another:
        waiting = await start_waiting(another, "@nobody", timeout=1000)

        async def write(number):
            for _ in range(100):
                await store.append(f"@{number}", "s", {"filling": "x" * 20_000})
                await another.read(f"@{number}", None, limit=5)

        await asyncio.gather(*(write(number) for number in range(20)))
        assert path.stat().st_size > 15_000_000
        assert wal.stat().st_size < 15_000_000
        waiting.cancel()
        await asyncio.wait([waiting])
