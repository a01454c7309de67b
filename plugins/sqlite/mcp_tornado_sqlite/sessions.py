"""Sessions: the SQL of each operation; those that write are to be run inside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final

from mcp_tornado.stores import DuplicateSession, Record, RevisionConflict, short_key
from mcp_tornado_sqlite import changes, logs

_SELECT_RECORD: Final = "SELECT last_seen_at, expires_at, revision, principal, payload FROM sessions "
_MAX_EVENTS_PER_SWEEP: Final = 2000
"""Number of removed events after which one call of `sweep` stops."""


def create(connection: sqlite3.Connection, key: str, record: Record) -> None:
    """See `SessionStore.create`."""
    inserted = connection.execute(
        "INSERT INTO sessions (key, last_seen_at, expires_at, revision, principal, payload) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        (key, record.last_seen_at, record.expires_at, record.revision, record.principal, record.payload),
    )
    if not inserted.rowcount:
        raise DuplicateSession(short_key(key))


def get(connection: sqlite3.Connection, key: str) -> Record | None:
    """See `SessionStore.get`."""
    row = connection.execute(_SELECT_RECORD + "WHERE key = ?", (key,)).fetchone()
    return Record(*row) if row is not None else None


def is_live(connection: sqlite3.Connection, key: str, now: int) -> bool:
    """Return whether there is a session with this key that has not expired."""
    found = connection.execute("SELECT 1 FROM sessions WHERE key = ? AND expires_at > ?", (key, now))
    return found.fetchone() is not None


def touch(connection: sqlite3.Connection, key: str, last_seen_at: int, expires_at: int, now: int) -> bool:
    """See `SessionStore.touch`."""
    touched = connection.execute(
        "UPDATE sessions SET last_seen_at = :seen, expires_at = :expires"
        " WHERE key = :key AND expires_at > :now AND last_seen_at <= :seen AND expires_at <= :expires",
        {"key": key, "seen": last_seen_at, "expires": expires_at, "now": now},
    )
    return touched.rowcount == 1


def update(
    connection: sqlite3.Connection, key: str, changed_fields: Mapping[str, Any], expected_revision: int, now: int
) -> Record | None:
    """See `SessionStore.update`."""
    row = connection.execute(_SELECT_RECORD + "WHERE key = ? AND expires_at > ?", (key, now)).fetchone()
    if row is None:
        return None
    record = Record(*row)
    if record.revision != expected_revision:
        raise RevisionConflict(f"expected revision {expected_revision}, found {record.revision}")
    changed = record.changed(changed_fields)
    connection.execute(
        "UPDATE sessions SET last_seen_at = ?, expires_at = ?, revision = ?, principal = ?, payload = ? WHERE key = ?",
        (changed.last_seen_at, changed.expires_at, changed.revision, changed.principal, changed.payload, key),
    )
    return changed


def delete(connection: sqlite3.Connection, key: str) -> bool:
    """See `SessionStore.delete`; only for the keys of sessions."""
    if not connection.execute("DELETE FROM sessions WHERE key = ?", (key,)).rowcount:
        return False
    logs.remove(connection, key)
    changes.add(connection, key)
    return True


def sweep(connection: sqlite3.Connection, moment: int, limit: int) -> int:
    """Remove at most `limit` sessions that expired by `moment`, with their events; return how many were removed.

    It removes at least one expired session. It stops before `limit` after `_MAX_EVENTS_PER_SWEEP` events, so that the
    transaction stays short.
    """
    expired = connection.execute(
        "SELECT key FROM sessions WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (moment, limit)
    ).fetchall()
    removed = removed_events = 0
    for (key,) in expired:
        connection.execute("DELETE FROM sessions WHERE key = ?", (key,))
        removed_events += logs.remove(connection, key)
        changes.add(connection, key)
        removed += 1
        if removed_events > _MAX_EVENTS_PER_SWEEP:
            break
    return removed


def count(connection: sqlite3.Connection, principal: str | None, now: int) -> int:
    """See `SessionStore.count`."""
    if principal is not None:
        sql = "SELECT count(*) FROM sessions WHERE principal = :principal AND expires_at > :now"
    else:
        # Few sessions have expired and are not swept yet, so only those are counted row by row.
        sql = "SELECT sessions - (SELECT count(*) FROM sessions WHERE expires_at <= :now) FROM totals"
    return connection.execute(sql, {"principal": principal, "now": now}).fetchone()[0]


def page(connection: sqlite3.Connection, after: str | None, limit: int, now: int) -> list[Record]:
    """See `SessionStore.page`; `limit` must not be negative."""
    rows = connection.execute(
        _SELECT_RECORD + "WHERE key > ? AND expires_at > ? ORDER BY key LIMIT ?", (after or "", now, limit)
    )
    return [Record(*row) for row in rows]
