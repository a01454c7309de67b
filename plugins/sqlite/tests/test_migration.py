"""Files of older and newer versions, and processes that are killed while they create or migrate a file."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from mcp_tornado_sqlite import schema, sqlite_store

from mcp_tornado.stores import EventId, StoreUnavailable, StreamEnded

pytestmark = pytest.mark.anyio

VERSION_1 = """
    CREATE TABLE sessions (
        key TEXT NOT NULL PRIMARY KEY,
        last_seen_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        principal TEXT,
        payload BLOB NOT NULL
    );
    CREATE INDEX sessions_by_expiry ON sessions (expires_at);
    CREATE INDEX sessions_by_principal ON sessions (principal, expires_at) WHERE principal IS NOT NULL;
    CREATE TABLE totals (sessions INTEGER NOT NULL);
    INSERT INTO totals (sessions) VALUES (0);
    CREATE TRIGGER session_made AFTER INSERT ON sessions BEGIN UPDATE totals SET sessions = sessions + 1; END;
    CREATE TRIGGER session_gone AFTER DELETE ON sessions BEGIN UPDATE totals SET sessions = sessions - 1; END;
    CREATE TABLE logs (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        newest INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        used_at INTEGER NOT NULL
    );
    CREATE TABLE events (
        log INTEGER NOT NULL,
        number INTEGER NOT NULL,
        bytes_before INTEGER NOT NULL,
        at INTEGER NOT NULL,
        final INTEGER NOT NULL,
        stream TEXT NOT NULL,
        message BLOB NOT NULL,
        PRIMARY KEY (log, number)
    );
    CREATE TABLE ended_streams (
        log INTEGER NOT NULL,
        number INTEGER NOT NULL,
        stream TEXT NOT NULL,
        PRIMARY KEY (log, number),
        UNIQUE (log, stream)
    ) WITHOUT ROWID;
    CREATE TABLE leases (
        name TEXT NOT NULL PRIMARY KEY,
        owner TEXT NOT NULL,
        expires_at INTEGER NOT NULL
    ) WITHOUT ROWID;
    PRAGMA application_id = 1835233364;
    PRAGMA user_version = 1;
    INSERT INTO sessions VALUES (
        'key-0001-and-so-on', 4102444800000000, 4102448400000000, 3, 'someone',
        CAST('{"key":"key-0001-and-so-on","created_at":4102444800000000,"last_seen_at":0,"expires_at":0,'
            || '"client":{"name":"client"},"principal":"someone","protocol_version":"2025-11-25","client_params":{},'
            || '"state":{"n":1},"revision":3}' AS BLOB)
    );
    INSERT INTO logs VALUES (1, 'key-0001-and-so-on', 2, 14, 4102444800000000);
    INSERT INTO events VALUES (1, 1, 0, 4102444800000000, 0, 'get', CAST('{"n":1}' AS BLOB));
    INSERT INTO events VALUES (1, 2, 7, 4102444800000000, 1, 'post', CAST('{"n":2}' AS BLOB));
    INSERT INTO ended_streams VALUES (1, 2, 'post');
    INSERT INTO leases VALUES ('lease', 'me', 4102448400000000);
"""
"""A file as version 1 wrote it: a session with two events, and a lease, in the year 2100."""
KEY = "key-0001-and-so-on"


@pytest.fixture
def clock():
    return lambda: datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def version_1(tmp_path_factory):
    file = tmp_path_factory.mktemp("old") / "sessions.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(VERSION_1)
    return file


async def check_migrated(store):
    session = await store.get(KEY)
    assert (session.principal, session.state, session.revision) == ("someone", {"n": 1}, 3)
    assert session.expires_at == datetime(2100, 1, 1, 1, tzinfo=UTC)
    assert await store.count() == await store.count("someone") == 1
    assert [event.message for event in await store.read(KEY, None)] == [{"n": 1}, {"n": 2}]
    with pytest.raises(StreamEnded):
        await store.append(KEY, "post", {})
    assert await store.claim("lease", "you", 10) is False


async def test_a_file_of_version_1_is_migrated_with_its_content(path, make_store, start_waiting, version_1, query):
    shutil.copy(version_1, path)
    async with make_store() as store, make_store() as another:
        await check_migrated(store)
        # Version 1 did not have the table that wakes waiters in other processes.
        waiting = await start_waiting(another, KEY, after=str(EventId.of(2, KEY, "get")))
        await store.append(KEY, "get", {"n": 3})
        assert await waiting is True
    assert query("PRAGMA user_version") == [(schema.VERSION,)]
    async with make_store() as store:
        assert len(await store.read(KEY, None)) == 3


async def test_a_migrated_file_has_the_same_tables_as_a_new_one(tmp_path, make_store, clock, version_1):
    def read_tables(file):
        with closing(sqlite3.connect(file)) as connection:
            found = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
        return {name: " ".join(sql.split()) for name, sql in found if sql is not None}

    async with make_store(), sqlite_store(f"sqlite:///{version_1}", {}, clock):
        pass
    assert read_tables(version_1) == read_tables(tmp_path / "sessions.db")


async def test_a_file_of_a_newer_version_is_refused_and_unchanged(path, make_store, read_folder):
    async with make_store():
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = read_folder(path.parent)
    with pytest.raises(StoreUnavailable, match="upgrade mcp-tornado-sqlite"):
        await make_store().__aenter__()
    assert read_folder(path.parent) == before


async def test_a_newer_version_is_found_while_it_has_the_file_open(path, make_store):
    """The new version number is only in the -wal file then."""
    async with make_store():
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        with pytest.raises(StoreUnavailable, match="upgrade mcp-tornado-sqlite"):
            await make_store().__aenter__()


# Processes that are killed


def enter_and_die(report, path, clock, die_at):
    """Enter a store, and kill this process before the statement with this number."""
    executed = 0
    connect = sqlite3.connect

    def trace(sql):
        nonlocal executed
        executed += 1
        if executed == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def connect_with_trace(*args, **options):
        connection = connect(*args, **options)
        connection.set_trace_callback(trace)
        return connection

    async def run():
        async with sqlite_store(f"sqlite:///{path}", {}, clock):
            pass

    sqlite3.connect = connect_with_trace
    asyncio.run(run())


@pytest.mark.parametrize("old", [False, True], ids=["creating", "migrating"])
def test_a_file_can_be_used_after_a_process_was_killed_while_it_created_or_migrated_it(
    fork, path, clock, version_1, old, make_session
):
    async def use_file():
        async with sqlite_store(f"sqlite:///{path}", {}, clock) as store:
            if old:
                await check_migrated(store)
            session = make_session(key="new", expires_at=clock() + timedelta(hours=1))
            await store.create(session)
            assert await store.get("new") == session

    deaths = 0
    while True:
        if old:
            shutil.copy(version_1, path)
        child = fork(enter_and_die, path, clock, deaths + 1)
        status = child.wait()
        asyncio.run(use_file())
        for file in path.parent.iterdir():
            file.unlink()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        deaths += 1
    assert deaths > 10


def test_many_processes_can_create_the_file_at_the_same_time(fork, path, clock):
    async def run(report, name):
        async with sqlite_store(f"sqlite:///{path}", {}, clock) as store:
            await store.append("@p", "s", {"from": name})
            report("done")

    children = [fork(lambda report, name=name: asyncio.run(run(report, name))) for name in range(8)]
    assert [child.wait() for child in children] == [0] * 8

    async def read_senders():
        async with sqlite_store(f"sqlite:///{path}", {}, clock) as store:
            return [event.message["from"] for event in await store.read("@p", None)]

    assert sorted(asyncio.run(read_senders())) == list(range(8))
