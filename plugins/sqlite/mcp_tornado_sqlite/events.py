"""Events: the SQL of each operation; those that write are to be run inside a transaction."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from mcp_tornado.stores import EventBounds, SessionGone, StreamEnded, is_process_key, short_key
from mcp_tornado_sqlite import changes, logs, sessions
from mcp_tornado_sqlite.logs import MICROSECONDS_PER_SECOND, Log


class EventRow(NamedTuple):
    """An event as it is stored."""

    number: int
    stream: str
    message: bytes
    final: int


def append(
    connection: sqlite3.Connection, key: str, stream: str, message: bytes, final: bool, bounds: EventBounds, now: int
) -> int:
    """Append an event and return its number; see `EventLog.append`."""
    if not _accepts_events(connection, key, now):
        raise SessionGone(short_key(key))
    log = logs.get_or_create(connection, key, now)
    if _has_ended(connection, log, stream):
        raise StreamEnded(stream)
    log = Log(log.id, log.newest + 1, log.bytes + len(message), max(log.used_at, now))
    connection.execute(
        "INSERT INTO events (log, number, bytes_before, at, final, stream, message) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (log.id, log.newest, log.bytes - len(message), log.used_at, final, stream, message),
    )
    connection.execute(
        "UPDATE logs SET newest = ?, bytes = ?, used_at = ? WHERE id = ?", (log.newest, log.bytes, log.used_at, log.id)
    )
    if final:
        _mark_ended(connection, log, stream, bounds)
    _evict(connection, log, bounds, now)
    changes.add(connection, key)
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
    """Return at most `limit` (not negative) events with numbers above `start`; see `EventLog.read`."""
    rows = connection.execute(
        """
        SELECT number, stream, message, final FROM logs JOIN events ON events.log = logs.id
        WHERE key = :key AND number > :start AND (stream = :stream OR :stream IS NULL) AND (
            number = newest
            OR (number > newest - :max_number AND bytes_before >= bytes - :max_bytes AND at >= :oldest)
        )
        ORDER BY number LIMIT :limit
        """,
        {"key": key, "start": start, "stream": stream, "limit": limit, **_bound_parameters(bounds, now)},
    )
    return [EventRow(*row) for row in rows]


def has_news(connection: sqlite3.Connection, key: str, start: int | None, now: int) -> bool:
    """Return whether there is an event with a number above `start`, or the session has ended.

    If `start` is `None`, only the end of the session counts.
    """
    log = connection.execute("SELECT newest FROM logs WHERE key = ?", (key,)).fetchone()
    if log is not None and start is not None and log[0] > start:
        return True
    return not _accepts_events(connection, key, now)


def _accepts_events(connection: sqlite3.Connection, key: str, now: int) -> bool:
    return is_process_key(key) or sessions.is_live(connection, key, now)


def _has_ended(connection: sqlite3.Connection, log: Log, stream: str) -> bool:
    ended = connection.execute("SELECT 1 FROM ended_streams WHERE log = ? AND stream = ?", (log.id, stream))
    return ended.fetchone() is not None


def _mark_ended(connection: sqlite3.Connection, log: Log, stream: str, bounds: EventBounds) -> None:
    """Record that a stream ended with the newest event; a log keeps at most `max_per_session` ended streams."""
    connection.execute("INSERT INTO ended_streams (log, number, stream) VALUES (?, ?, ?)", (log.id, log.newest, stream))
    connection.execute(
        """
        DELETE FROM ended_streams WHERE log = :log AND number <= (
            SELECT number FROM ended_streams WHERE log = :log ORDER BY number DESC LIMIT 1 OFFSET :kept
        )
        """,
        {"log": log.id, "kept": bounds.max_per_session},
    )


def _evict(connection: sqlite3.Connection, log: Log, bounds: EventBounds, now: int) -> None:
    """Remove the events that are older than the first event within the bounds; the newest event always stays."""
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
        {"log": log.id, "newest": log.newest, "bytes": log.bytes, **_bound_parameters(bounds, now)},
    )


def _bound_parameters(bounds: EventBounds, now: int) -> dict[str, int]:
    """Return the bounds as SQL parameters: `max_number`, `max_bytes`, and `oldest` in microseconds."""
    return {
        "max_number": bounds.max_per_session,
        "max_bytes": bounds.max_bytes,
        "oldest": now - int(bounds.ttl_seconds * MICROSECONDS_PER_SECOND),
    }
