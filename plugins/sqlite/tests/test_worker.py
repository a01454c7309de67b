"""Transactions of several jobs, locks of other programs, failing jobs, and cancelled callers."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing

import pytest
from mcp_tornado_sqlite import worker
from mcp_tornado_sqlite.worker import Reader, Writer

from mcp_tornado.stores import DuplicateSession, SessionGone, StoreUnavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
def lock(path):
    """The connection of another program that has the database locked until it commits."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection


@pytest.fixture
async def locked_store(store, lock):
    return store


@pytest.fixture
async def writer(anyio_backend, path):
    async with Writer(path, "writer", lambda connection: None) as opened:
        yield opened


async def test_writes_wait_for_the_lock_of_another_program_and_reads_do_not(locked_store, lock, make_session):
    creating = asyncio.create_task(locked_store.create(make_session()))
    assert await locked_store.get("key-0001") is None
    assert await locked_store.count() == 0
    assert not creating.done()
    lock.execute("COMMIT")
    await creating
    assert await locked_store.get("key-0001") == make_session()


async def test_writes_fail_when_another_program_keeps_the_lock(locked_store, lock, make_session, monkeypatch):
    monkeypatch.setattr(worker, "LOCK_TIMEOUT_SECONDS", 0.05)
    results = await asyncio.gather(
        locked_store.create(make_session()),
        locked_store.append("@p", "s", {}),
        locked_store.ping(),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    assert "locked" in str(results[0])
    lock.execute("COMMIT")
    monkeypatch.undo()
    assert await locked_store.get("key-0001") is None
    await locked_store.create(make_session())


async def test_queued_jobs_are_committed_together_and_an_error_affects_its_job_only(
    locked_store, lock, make_session, query
):
    calls = [
        locked_store.create(make_session(key="a")),
        locked_store.create(make_session(key="a")),
        locked_store.append("unknown", "s", {}),
        locked_store.append("a", "s", {}),
        locked_store.create(make_session(key="b", principal="\ud800")),
        locked_store.delete("nobody"),
        locked_store.create(make_session(key="c")),
    ]
    together = asyncio.gather(*calls, return_exceptions=True)
    await asyncio.sleep(0)  # the calls put their jobs into the queue
    lock.execute("COMMIT")
    results = await together
    assert [type(result) for result in results] == [
        type(None),
        DuplicateSession,
        SessionGone,
        str,
        UnicodeEncodeError,
        bool,
        type(None),
    ]
    assert query("SELECT key FROM sessions ORDER BY key") == [("a",), ("c",)]


async def test_a_failing_job_changes_nothing_and_does_not_affect_other_jobs(writer, query):
    def insert(connection, name):
        connection.execute("INSERT INTO leases VALUES (?, 'me', 1)", (name,))

    def fail(connection):
        insert(connection, "bad")
        raise KeyError("bad")

    results = await asyncio.gather(
        writer.run(lambda connection: insert(connection, "one")),
        writer.run(fail),
        writer.run(lambda connection: connection.execute("no SQL")),
        writer.run(lambda connection: insert(connection, "two")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), KeyError, StoreUnavailable, type(None)]
    assert query("SELECT name FROM leases ORDER BY name") == [("one",), ("two",)]


async def test_a_rolled_back_transaction_fails_all_its_jobs_and_no_later_ones(writer, query):
    def insert(connection):
        connection.execute("INSERT INTO leases VALUES ('lost', 'me', 1)")

    def roll_back_and_fail(connection):
        connection.execute("ROLLBACK")
        connection.execute("no SQL")

    first_began, release = threading.Event(), threading.Event()
    first = asyncio.create_task(writer.run(lambda connection: first_began.set() or release.wait(30)))
    assert await asyncio.to_thread(first_began.wait, 30), "the first job did not begin"
    together = asyncio.gather(writer.run(insert), writer.run(roll_back_and_fail), return_exceptions=True)
    await asyncio.sleep(0)  # both jobs are in the queue
    release.set()
    assert await first is True
    results = await together
    assert [type(result) for result in results] == [StoreUnavailable] * 2
    assert "syntax error" in str(results[0]), "the reason of the failure, not one of its consequences"
    assert query("SELECT * FROM leases") == []
    await writer.run(insert)
    assert len(query("SELECT * FROM leases")) == 1


async def test_a_transaction_that_cannot_be_committed_is_rolled_back_and_does_not_affect_later_ones(writer, query):
    def insert(connection):
        connection.execute("INSERT INTO leases VALUES ('lost', 'me', 1)")

    def insert_and_deny_commit(connection):
        insert(connection)
        connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK
        )

    with pytest.raises(StoreUnavailable):
        await writer.run(insert_and_deny_commit)
    assert query("SELECT * FROM leases") == []
    await writer.run(insert)
    assert len(query("SELECT * FROM leases")) == 1


async def test_a_job_whose_caller_is_cancelled_before_it_begins_is_not_run(locked_store, lock, make_session):
    cancelled = asyncio.create_task(locked_store.create(make_session(key="cancelled")))
    wanted = asyncio.create_task(locked_store.create(make_session(key="wanted")))
    await locked_store.count()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    lock.execute("COMMIT")
    await wanted
    assert [session.key for session in await locked_store.page(None, 10)] == ["wanted"]


async def test_a_job_whose_caller_is_cancelled_after_it_began_is_run_to_its_end(writer, query):
    began, release = threading.Event(), threading.Event()

    def insert(connection):
        began.set()
        assert release.wait(30)
        connection.execute("INSERT INTO leases VALUES ('kept', 'me', 1)")

    inserting = asyncio.create_task(writer.run(insert))
    assert await asyncio.to_thread(began.wait, 30), "the job did not begin"
    inserting.cancel()
    await asyncio.wait([inserting])
    release.set()
    await writer.run(lambda connection: None)
    assert inserting.cancelled()
    assert query("SELECT name FROM leases") == [("kept",)]


async def test_a_caller_stops_waiting_when_the_disk_hangs(writer, monkeypatch):
    monkeypatch.setattr(worker, "_RESULT_TIMEOUT_SECONDS", 0.05)
    release = threading.Event()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await writer.run(lambda connection: release.wait(30))
    release.set()
    monkeypatch.undo()
    await writer.run(lambda connection: None)


async def test_reads_wait_while_the_database_is_locked_exclusively(writer, path, monkeypatch):
    """SQLite locks the database for a moment when it recovers from a crash."""
    busy = 3

    def read(connection):
        nonlocal busy
        busy -= 1
        if busy > 0:
            raise locked
        return "read"

    with closing(sqlite3.connect(path, timeout=0)) as one, closing(sqlite3.connect(path, timeout=0)) as two:
        one.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError) as caught:
            two.execute("BEGIN IMMEDIATE")
        locked = caught.value
    async with Reader(path, "reader") as reader:
        assert await reader.run(read) == "read"
        monkeypatch.setattr(worker, "LOCK_TIMEOUT_SECONDS", 0.05)
        busy = 1_000_000
        with pytest.raises(StoreUnavailable, match="locked"):
            await reader.run(read)
        busy = 0
        assert await reader.run(read) == "read"


async def test_queued_jobs_are_run_when_the_store_is_closed(make_store, make_session, query):
    store = make_store()
    async with store:
        calls = [asyncio.create_task(store.create(make_session(key=f"key-{number}"))) for number in range(500)]
        await asyncio.sleep(0)  # the calls put their jobs into the queue
    await asyncio.gather(*calls)
    assert query("SELECT count(*) FROM sessions") == [(500,)]


async def test_the_event_loop_runs_while_the_disk_is_slow(writer):
    began, release = threading.Event(), threading.Event()
    slow = asyncio.create_task(writer.run(lambda connection: began.set() or release.wait(30)))
    assert await asyncio.to_thread(began.wait, 30), "the job did not begin"
    assert not slow.done()
    release.set()
    assert await slow is True


async def test_sqlite_waits_for_the_disk_before_a_commit_returns(writer):
    """A power failure cannot be tested here; this tests the setting that survives one."""
    (mode,) = await writer.run(lambda connection: connection.execute("PRAGMA synchronous").fetchone())
    assert mode == 2, "FULL"
