"""The tables, and the migration of a file of an older version."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from mcp_tornado_sqlite.failures import unavailable

APPLICATION_ID: Final = int.from_bytes(b"mcpT")
"""The application id in the header of every file that this package creates."""

_VERSION_1: Final = (
    # Times are microseconds since the epoch. The payload may be long. It comes last, so that SQLite can read the other
    # columns without it.
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
    # The number of sessions: counting the rows takes long if there are many.
    "CREATE TABLE totals (sessions INTEGER NOT NULL)",
    "INSERT INTO totals (sessions) VALUES (0)",
    "CREATE TRIGGER session_made AFTER INSERT ON sessions BEGIN UPDATE totals SET sessions = sessions + 1; END",
    "CREATE TRIGGER session_gone AFTER DELETE ON sessions BEGIN UPDATE totals SET sessions = sessions - 1; END",
    # One row for each session or process that has had an event: the number of its newest event, the size in bytes of
    # all events it has ever had, and the time of the newest event. For a process, `used_at` is also set while it waits
    # for events.
    """
    CREATE TABLE logs (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        newest INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        used_at INTEGER NOT NULL
    )
    """,
    # `number`, `bytes_before` (the size of all earlier events of the log) and `at` never decrease from one event to the
    # next. So each bound keeps the events from some number on.
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
    # The streams that have ended, with the number of their final event.
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
    # The last thousand changes in order: the key of each appended event and of each ended session. Other processes read
    # them to wake their waiters.
    """
    CREATE TABLE changes (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL
    )
    """,
)

MIGRATIONS: Final = (_VERSION_1, _VERSION_2)
"""The statements that lead from each version to the next, beginning with an empty file. Released ones never change."""
VERSION: Final = len(MIGRATIONS)
"""The version of the tables that this package works with; it is stored in the header of the file."""


def check_header(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreUnavailable` if another application or a newer version of this package created the database.

    Raises:
        StoreUnavailable: This version of the package cannot use the database.
        sqlite3.Error: The file cannot be read, or is not a database.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != APPLICATION_ID:
        raise unavailable(path, "it is the database of another application: name another file in the URL of the store")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise unavailable(
            path,
            f"a newer mcp-tornado-sqlite wrote it (its tables have version {version}, the installed package supports "
            f"version {VERSION}): "
            "upgrade mcp-tornado-sqlite, or name another file in the URL of the store",
        )


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables in an empty file, or migrate a file of an older version, in one transaction.

    Raises:
        StoreUnavailable: The file cannot be used; see `check_header`.
        sqlite3.Error: SQLite failed; nothing has changed.
    """
    if _get_version(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated the file meanwhile: the version is certain only in this transaction.
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            check_header(connection, path)
        for statements in MIGRATIONS[_get_version(connection) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _get_version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]
