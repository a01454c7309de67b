"""What the tables look like, and how a file of an older version is brought up to date."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from mcp_tornado_sqlite.failures import refused

APPLICATION_ID: Final = int.from_bytes(b"mcpT")
"""Stands in the head of every file of ours."""

_VERSION_1: Final = (
    # Times are microseconds since the epoch. The payload, which may be long, comes last: what is searched for is read
    # without it.
    """
    CREATE TABLE sessions (
        key TEXT NOT NULL PRIMARY KEY,
        last_seen_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        principal TEXT,
        payload BLOB NOT NULL
    )
    """,
    "CREATE INDEX sessions_by_expiry ON sessions (expires_at)",
    "CREATE INDEX sessions_by_principal ON sessions (principal, expires_at) WHERE principal IS NOT NULL",
    # How many sessions there are: to count the rows takes long where there are many.
    "CREATE TABLE totals (sessions INTEGER NOT NULL)",
    "INSERT INTO totals (sessions) VALUES (0)",
    "CREATE TRIGGER session_made AFTER INSERT ON sessions BEGIN UPDATE totals SET sessions = sessions + 1; END",
    "CREATE TRIGGER session_gone AFTER DELETE ON sessions BEGIN UPDATE totals SET sessions = sessions - 1; END",
    # One row for each session or process that has had an event: the number of its newest event, the bytes of all events
    # it ever had, and the time of the newest event or, for a process, when it was last seen to wait for one.
    """
    CREATE TABLE logs (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        newest INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        used_at INTEGER NOT NULL
    )
    """,
    # `number`, `bytes_before` (of all earlier events of the log) and `at` never go down from one event to the next: so
    # each of the bounds leaves the events from some number on.
    """
    CREATE TABLE events (
        log INTEGER NOT NULL,
        number INTEGER NOT NULL,
        bytes_before INTEGER NOT NULL,
        at INTEGER NOT NULL,
        final INTEGER NOT NULL,
        stream TEXT NOT NULL,
        message BLOB NOT NULL,
        PRIMARY KEY (log, number)
    )
    """,
    # The streams that had their final event, by the number of it.
    """
    CREATE TABLE ended_streams (
        log INTEGER NOT NULL,
        number INTEGER NOT NULL,
        stream TEXT NOT NULL,
        PRIMARY KEY (log, number),
        UNIQUE (log, stream)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE leases (
        name TEXT NOT NULL PRIMARY KEY,
        owner TEXT NOT NULL,
        expires_at INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
)
_VERSION_2: Final = (
    # Which keys had an event or ended, in order, the last thousand: what waiters in other processes go by.
    """
    CREATE TABLE changes (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL
    )
    """,
)

MIGRATIONS: Final = (_VERSION_1, _VERSION_2)
"""The statements that lead from each version to the next, from an empty file on. What was released is not changed."""
VERSION: Final = len(MIGRATIONS)
"""The version of the tables that this package works with; it stands in the head of the file."""


def check_head(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that another application made, or a newer version of this package.

    Raises:
        StoreUnavailable: It is one of those, and no database of ours.
        sqlite3.Error: It cannot be read, or is no database.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        raise refused(path, "it is the database of another application: name another file in the URL of the store")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise refused(
            path,
            f"a newer mcp-tornado-sqlite has written it (version {version} of its tables, this one knows {VERSION}): "
            "upgrade mcp-tornado-sqlite, or name another file in the URL of the store",
        )


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring an empty file, or one of an older version, up to date: wholly or not at all.

    Raises:
        StoreUnavailable: It is neither; see `check_head`.
        sqlite3.Error: It failed.
    """
    if _version(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been faster: what there is to do is known only now.
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            check_head(connection, path)
        for statements in MIGRATIONS[_version(connection) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]
