"""Files of older and newer versions, and what dies while it makes or migrates one."""

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
"""What version 1 wrote: a session with two events, and a lease, in the year 2100."""
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


async def test_a_file_of_version_1_is_migrated_with_all_that_is_in_it(path, make_store, version_1, rows):
    shutil.copy(version_1, path)
    async with make_store() as store, make_store() as another:
        await check_migrated(store)
        # What version 1 did not have: waiters in other processes are woken.
        waiting = asyncio.create_task(another.wait(KEY, str(EventId.of(2, KEY, "get")), 30))
        for _ in range(20):
            await another.ping()
        await store.append(KEY, "get", {"n": 3})
        assert await waiting is True
    assert rows("PRAGMA user_version") == [(schema.VERSION,)]
    async with make_store() as store:
        assert len(await store.read(KEY, None)) == 3


async def test_a_migrated_file_has_the_same_tables_as_a_new_one(tmp_path, make_store, clock, version_1):
    def tables(file):
        with closing(sqlite3.connect(file)) as connection:
            found = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
        return {name: " ".join(sql.split()) for name, sql in found if sql is not None}

    async with make_store(), sqlite_store(f"sqlite:///{version_1}", {}, clock):
        pass
    assert tables(version_1) == tables(tmp_path / "sessions.db")


async def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(path, make_store, content):
    async with make_store():
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = content(path.parent)
    with pytest.raises(StoreUnavailable, match="upgrade mcp-tornado-sqlite"):
        await make_store().__aenter__()
    assert content(path.parent) == before


async def test_a_newer_version_that_is_at_work_on_the_file_is_seen(path, make_store):
    """It stands in the -wal file alone then."""
    async with make_store():
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        with pytest.raises(StoreUnavailable, match="upgrade mcp-tornado-sqlite"):
            await make_store().__aenter__()


# Sudden deaths


def enter(tell, path, clock, die_at):
    """Enter a store, and die before the statement with this number."""
    executed = 0
    connect = sqlite3.connect

    def trace(sql):
        nonlocal executed
        executed += 1
        if executed == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*args, **options):
        connection = connect(*args, **options)
        connection.set_trace_callback(trace)
        return connection

    async def run():
        async with sqlite_store(f"sqlite:///{path}", {}, clock):
            pass

    sqlite3.connect = traced
    asyncio.run(run())


@pytest.mark.parametrize("old", [False, True], ids=["making", "migrating"])
def test_a_death_while_a_file_is_made_or_migrated_does_no_harm(fork, path, clock, version_1, old, make_session):
    async def use():
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
        child = fork(enter, path, clock, deaths + 1)
        status = child.wait()
        asyncio.run(use())
        for file in path.parent.iterdir():
            file.unlink()
        if status == 0:
            break
        assert status == -signal.SIGKILL
        deaths += 1
    assert deaths > 10


def test_many_processes_can_make_the_file_at_once(fork, path, clock):
    async def run(tell, name):
        async with sqlite_store(f"sqlite:///{path}", {}, clock) as store:
            await store.append("@p", "s", {"from": name})
            tell("done")

    children = [fork(lambda tell, name=name: asyncio.run(run(tell, name))) for name in range(8)]
    assert [child.wait() for child in children] == [0] * 8

    async def look():
        async with sqlite_store(f"sqlite:///{path}", {}, clock) as store:
            return [event.message["from"] for event in await store.read("@p", None)]

    assert sorted(asyncio.run(look())) == list(range(8))
