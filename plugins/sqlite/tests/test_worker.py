"""Transactions that many share, locks that others hold, and callers who do not wait."""

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
    """Another program that has locked the database, until it is told to commit."""
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


async def test_writing_waits_for_another_program_and_reading_does_not(locked_store, lock, make_session):
    creating = asyncio.create_task(locked_store.create(make_session()))
    assert await locked_store.get("key-0001") is None
    assert await locked_store.count() == 0
    assert not creating.done()
    lock.execute("COMMIT")
    await creating
    assert await locked_store.get("key-0001") == make_session()


async def test_a_program_that_does_not_let_go_is_not_waited_for_for_ever(locked_store, lock, make_session, monkeypatch):
    monkeypatch.setattr(worker, "LOCK_LIMIT", 0.05)
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


async def test_what_waits_together_is_committed_together_and_errors_stay_alone(locked_store, lock, make_session, rows):
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
    await asyncio.sleep(0)
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
    assert rows("SELECT key FROM sessions ORDER BY key") == [("a",), ("c",)]


async def test_a_job_that_fails_changes_nothing_and_harms_no_other(writer, rows):
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
    assert rows("SELECT name FROM leases ORDER BY name") == [("one",), ("two",)]


async def test_when_the_whole_transaction_fails_all_of_it_does_and_later_ones_do_not(writer, rows):
    def insert(connection):
        connection.execute("INSERT INTO leases VALUES ('lost', 'me', 1)")

    def lose(connection):
        connection.execute("ROLLBACK")
        connection.execute("no SQL")

    began, go_on = threading.Event(), threading.Event()
    first = asyncio.create_task(writer.run(lambda connection: began.set() or go_on.wait(30)))
    await asyncio.to_thread(began.wait, 30)
    together = asyncio.gather(writer.run(insert), writer.run(lose), return_exceptions=True)
    await asyncio.sleep(0)
    go_on.set()
    assert await first is True
    results = await together
    assert [type(result) for result in results] == [StoreUnavailable] * 2
    assert "syntax error" in str(results[0]), "the reason, not what came of it"
    assert rows("SELECT * FROM leases") == []
    await writer.run(insert)
    assert len(rows("SELECT * FROM leases")) == 1


async def test_a_transaction_that_cannot_be_committed_is_undone_and_later_ones_are_not_hindered(writer, rows):
    def insert(connection):
        connection.execute("INSERT INTO leases VALUES ('lost', 'me', 1)")

    def insert_and_forbid_committing(connection):
        insert(connection)
        connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK
        )

    with pytest.raises(StoreUnavailable):
        await writer.run(insert_and_forbid_committing)
    assert rows("SELECT * FROM leases") == []
    await writer.run(insert)
    assert len(rows("SELECT * FROM leases")) == 1


async def test_what_is_cancelled_before_it_begins_is_not_done(locked_store, lock, make_session):
    given_up = asyncio.create_task(locked_store.create(make_session(key="given up")))
    wanted = asyncio.create_task(locked_store.create(make_session(key="wanted")))
    await locked_store.count()
    given_up.cancel()
    await asyncio.wait([given_up])
    lock.execute("COMMIT")
    await wanted
    assert [session.key for session in await locked_store.page(None, 10)] == ["wanted"]


async def test_what_is_cancelled_after_it_began_is_done(writer, rows):
    began, go_on = threading.Event(), threading.Event()

    def insert(connection):
        began.set()
        assert go_on.wait(30)
        connection.execute("INSERT INTO leases VALUES ('kept', 'me', 1)")

    given_up = asyncio.create_task(writer.run(insert))
    await asyncio.to_thread(began.wait, 30)
    given_up.cancel()
    await asyncio.wait([given_up])
    go_on.set()
    await writer.run(lambda connection: None)
    assert given_up.cancelled()
    assert rows("SELECT name FROM leases") == [("kept",)]


async def test_a_disk_that_hangs_is_not_waited_for_for_ever(writer, monkeypatch):
    monkeypatch.setattr(worker, "_ANSWER_LIMIT", 0.05)
    go_on = threading.Event()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await writer.run(lambda connection: go_on.wait(30))
    go_on.set()
    monkeypatch.undo()
    await writer.run(lambda connection: None)


async def test_reading_waits_while_the_database_is_locked_for_all(writer, path, monkeypatch):
    """As it is for a moment when a crash is cleaned up after."""
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
        monkeypatch.setattr(worker, "LOCK_LIMIT", 0.05)
        busy = 1_000_000
        with pytest.raises(StoreUnavailable, match="locked"):
            await reader.run(read)
        busy = 0
        assert await reader.run(read) == "read"


async def test_what_waits_when_the_store_is_closed_is_done(make_store, make_session, rows):
    store = make_store()
    async with store:
        calls = [asyncio.create_task(store.create(make_session(key=f"key-{number}"))) for number in range(500)]
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    assert rows("SELECT count(*) FROM sessions") == [(500,)]


async def test_the_event_loop_goes_on_while_the_disk_is_slow(writer):
    go_on = threading.Event()
    slow = asyncio.create_task(writer.run(lambda connection: go_on.wait(30)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not slow.done()
    go_on.set()
    assert await slow is True


async def test_what_is_answered_is_on_the_disk(writer):
    """Nobody can take the power away here: at least SQLite is told to wait for the disk."""
    (mode,) = await writer.run(lambda connection: connection.execute("PRAGMA synchronous").fetchone())
    assert mode == 2, "FULL"
