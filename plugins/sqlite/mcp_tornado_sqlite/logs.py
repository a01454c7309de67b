"""Logs: the SQL for the events of one session or process as a whole, to be run inside a transaction.

A log is one row of the table `logs` with its rows of `events` and `ended_streams`. A session or process gets a log with
its first event. This module does not know whether a session is live.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from mcp_tornado_sqlite import changes

MICROSECONDS_PER_SECOND: Final = 1_000_000

_IDLE_PROCESS_RETENTION: Final = 86_400 * MICROSECONDS_PER_SECOND
"""Microseconds for which the log of a process is kept after its last event, or after a task last waited for one."""


class Log(NamedTuple):
    """A row of the table `logs`; see `schema`."""

    id: int
    newest: int
    bytes: int
    used_at: int


def get_or_create(connection: sqlite3.Connection, key: str, now: int) -> Log:
    """Return the log of a key; create it if the key has none."""
    row = connection.execute("SELECT id, newest, bytes, used_at FROM logs WHERE key = ?", (key,)).fetchone()
    if row is not None:
        return Log(*row)
    connection.execute("INSERT INTO logs (key, newest, bytes, used_at) VALUES (?, 0, 0, ?)", (key, now))
    return get_or_create(connection, key, now)


def remove(connection: sqlite3.Connection, key: str) -> int:
    """Remove the log of a key, and return how many events were removed."""
    log = connection.execute("SELECT id FROM logs WHERE key = ?", (key,)).fetchone()
    if log is None:
        return 0
    removed = connection.execute("DELETE FROM events WHERE log = ?", log).rowcount
    connection.execute("DELETE FROM ended_streams WHERE log = ?", log)
    connection.execute("DELETE FROM logs WHERE id = ?", log)
    return removed


def delete_process(connection: sqlite3.Connection, key: str) -> None:
    """Remove the log of a process, and record the change; see `SessionStore.delete`."""
    remove(connection, key)
    changes.add(connection, key)


def mark_processes_used(connection: sqlite3.Connection, keys: Sequence[str], now: int) -> None:
    """Record that these processes still use their logs; see `sweep_processes`."""
    connection.executemany("UPDATE logs SET used_at = max(used_at, ?) WHERE key = ?", [(now, key) for key in keys])


def sweep_processes(connection: sqlite3.Connection, limit: int, now: int) -> int:
    """Remove the logs of at most `limit` processes that have been idle for too long, and return how many."""
    # The keys of processes begin with @.
    idle = connection.execute(
        "SELECT key FROM logs WHERE key >= '@' AND key < 'A' AND used_at < ? LIMIT ?",
        (now - _IDLE_PROCESS_RETENTION, limit),
    ).fetchall()
    for (key,) in idle:
        delete_process(connection, key)
    return len(idle)
