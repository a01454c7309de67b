"""Events: the SQL of each operation, to be run inside a transaction where it writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from mcp_tornado.stores import EventBounds, SessionGone, StreamEnded, is_process_key, short_key
from mcp_tornado_sqlite import changes, sessions

SECOND: Final = 1_000_000
"""Microseconds in a second."""

_PROCESS_IS_KEPT: Final = 86_400 * SECOND
"""For how long a process's events are kept after it has had one, or was seen to wait for one."""


class EventRow(NamedTuple):
    """An event as it is stored."""

    number: int
    stream: str
    message: bytes
    final: int


class _Log(NamedTuple):
    id: int
    newest: int
    bytes: int
    used_at: int


def append(
    connection: sqlite3.Connection, key: str, stream: str, message: bytes, final: bool, bounds: EventBounds, now: int
) -> int:
    """Add an event and return its number; see `EventLog.append`."""
    if not (is_process_key(key) or sessions.is_live(connection, key, now)):
        raise SessionGone(short_key(key))
    log = _log(connection, key, now)
    if _has_ended(connection, log, stream):
        raise StreamEnded(stream)
    log = _Log(log.id, log.newest + 1, log.bytes + len(message), max(log.used_at, now))
    connection.execute(
        "INSERT INTO events (log, number, bytes_before, at, final, stream, message) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (log.id, log.newest, log.bytes - len(message), log.used_at, final, stream, message),
    )
    connection.execute(
        "UPDATE logs SET newest = ?, bytes = ?, used_at = ? WHERE id = ?", (log.newest, log.bytes, log.used_at, log.id)
    )
    if final:
        _end(connection, log, stream, bounds)
    _evict(connection, log, bounds, now)
    changes.note(connection, key)
    return log.newest


def read(
    connection: sqlite3.Connection,
    key: str,
    start: int,
    stream: str | None,
    limit: int,
    bounds: EventBounds,
    now: int,
) -> list[EventRow]:
    """Return at most `limit` events (not negative) with numbers above `start`; see `EventLog.read`."""
    rows = connection.execute(
        """
        SELECT number, stream, message, final FROM logs JOIN events ON events.log = logs.id
        WHERE key = :key AND number > :start AND (stream = :stream OR :stream IS NULL) AND (
            number = newest
            OR (number > newest - :max_number AND bytes_before >= bytes - :max_bytes AND at >= :oldest)
        )
        ORDER BY number LIMIT :limit
        """,
        {"key": key, "start": start, "stream": stream, "limit": limit, **_within(bounds, now)},
    )
    return [EventRow(*row) for row in rows]


def is_new(connection: sqlite3.Connection, key: str, start: int | None, now: int) -> bool:
    """Say whether who waits for an event with a number above `start` should look: there is one, or the session ended.

    `None` for `start` where no event is waited for, but the end of the session.
    """
    log = connection.execute("SELECT newest FROM logs WHERE key = ?", (key,)).fetchone()
    if log is not None and start is not None and log[0] > start:
        return True
    return not (is_process_key(key) or sessions.is_live(connection, key, now))


def drop(connection: sqlite3.Connection, key: str) -> int:
    """Remove all events of a key, and say how many there were."""
    log = connection.execute("SELECT id FROM logs WHERE key = ?", (key,)).fetchone()
    if log is None:
        return 0
    removed = connection.execute("DELETE FROM events WHERE log = ?", log).rowcount
    connection.execute("DELETE FROM ended_streams WHERE log = ?", log)
    connection.execute("DELETE FROM logs WHERE id = ?", log)
    return removed


def delete_process(connection: sqlite3.Connection, key: str) -> None:
    """Remove what the key of a process has; see `SessionStore.delete`."""
    drop(connection, key)
    changes.note(connection, key)


def keep_processes(connection: sqlite3.Connection, keys: Sequence[str], now: int) -> None:
    """Note that these processes, or whoever has these keys, are there still; see `sweep_processes`."""
    connection.executemany("UPDATE logs SET used_at = max(used_at, ?) WHERE key = ?", [(now, key) for key in keys])


def sweep_processes(connection: sqlite3.Connection, limit: int, now: int) -> int:
    """Remove the events of processes that have long been gone, and say of how many: at most `limit`."""
    # Their keys are those that begin with @.
    gone = connection.execute(
        "SELECT key FROM logs WHERE key >= '@' AND key < 'A' AND used_at < ? LIMIT ?",
        (now - _PROCESS_IS_KEPT, limit),
    ).fetchall()
    for (key,) in gone:
        delete_process(connection, key)
    return len(gone)


def _log(connection: sqlite3.Connection, key: str, now: int) -> _Log:
    """Return the log of a key; a new one where it has none."""
    row = connection.execute("SELECT id, newest, bytes, used_at FROM logs WHERE key = ?", (key,)).fetchone()
    if row is not None:
        return _Log(*row)
    connection.execute("INSERT INTO logs (key, newest, bytes, used_at) VALUES (?, 0, 0, ?)", (key, now))
    return _log(connection, key, now)


def _has_ended(connection: sqlite3.Connection, log: _Log, stream: str) -> bool:
    ended = connection.execute("SELECT 1 FROM ended_streams WHERE log = ? AND stream = ?", (log.id, stream))
    return ended.fetchone() is not None


def _end(connection: sqlite3.Connection, log: _Log, stream: str, bounds: EventBounds) -> None:
    """Note that a stream has ended with the newest event; as many are remembered as there may be events."""
    connection.execute("INSERT INTO ended_streams (log, number, stream) VALUES (?, ?, ?)", (log.id, log.newest, stream))
    connection.execute(
        """
        DELETE FROM ended_streams WHERE log = :log AND number <= (
            SELECT number FROM ended_streams WHERE log = :log ORDER BY number DESC LIMIT 1 OFFSET :kept
        )
        """,
        {"log": log.id, "kept": bounds.max_per_session},
    )


def _evict(connection: sqlite3.Connection, log: _Log, bounds: EventBounds, now: int) -> None:
    """Remove the events before the first that is within the bounds, or else before the newest."""
    connection.execute(
        """
        DELETE FROM events WHERE log = :log AND number < coalesce(
            (
                SELECT number FROM events
                WHERE log = :log
                AND number > :newest - :max_number AND bytes_before >= :bytes - :max_bytes AND at >= :oldest
                ORDER BY number LIMIT 1
            ),
            :newest
        )
        """,
        {"log": log.id, "newest": log.newest, "bytes": log.bytes, **_within(bounds, now)},
    )


def _within(bounds: EventBounds, now: int) -> dict[str, int]:
    """Return the bounds as the values of the names that stand for them in the SQL."""
    return {
        "max_number": bounds.max_per_session,
        "max_bytes": bounds.max_bytes,
        "oldest": now - int(bounds.ttl_seconds * SECOND),
    }
