"""Sessions: the SQL of each operation, to be run inside a transaction where it writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final

from mcp_tornado.stores import DuplicateSession, Record, RevisionConflict, short_key
from mcp_tornado_sqlite import changes, events

_RECORD: Final = "SELECT last_seen_at, expires_at, revision, principal, payload FROM sessions "
_EVENTS_AT_ONCE: Final = 2000
"""How many events a share of a sweep removes before it stops."""


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
    row = connection.execute(_RECORD + "WHERE key = ?", (key,)).fetchone()
    return Record(*row) if row is not None else None


def is_live(connection: sqlite3.Connection, key: str, now: int) -> bool:
    """Say whether there is a session with this key that has not expired."""
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
    row = connection.execute(_RECORD + "WHERE key = ? AND expires_at > ?", (key, now)).fetchone()
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
    """See `SessionStore.delete`; for the keys of sessions."""
    if not connection.execute("DELETE FROM sessions WHERE key = ?", (key,)).rowcount:
        return False
    events.drop(connection, key)
    changes.note(connection, key)
    return True


def sweep(connection: sqlite3.Connection, moment: int, limit: int) -> int:
    """Remove sessions that expired by `moment` with their events, and say how many: at most `limit`.

    It stops earlier, after at least one session, when it has removed so much that others should have their turn.
    """
    expired = connection.execute(
        "SELECT key FROM sessions WHERE expires_at <= ? ORDER BY expires_at LIMIT ?", (moment, limit)
    ).fetchall()
    removed = removed_events = 0
    for (key,) in expired:
        connection.execute("DELETE FROM sessions WHERE key = ?", (key,))
        removed_events += events.drop(connection, key)
        changes.note(connection, key)
        removed += 1
        if removed_events > _EVENTS_AT_ONCE:
            break
    return removed


def count(connection: sqlite3.Connection, principal: str | None, now: int) -> int:
    """See `SessionStore.count`."""
    if principal is not None:
        sql = "SELECT count(*) FROM sessions WHERE principal = :principal AND expires_at > :now"
    else:
        # Those that have expired and are not swept yet are few.
        sql = "SELECT sessions - (SELECT count(*) FROM sessions WHERE expires_at <= :now) FROM totals"
    return connection.execute(sql, {"principal": principal, "now": now}).fetchone()[0]


def page(connection: sqlite3.Connection, after: str | None, limit: int, now: int) -> list[Record]:
    """See `SessionStore.page`; for a limit that is not negative."""
    rows = connection.execute(
        _RECORD + "WHERE key > ? AND expires_at > ? ORDER BY key LIMIT ?", (after or "", now, limit)
    )
    return [Record(*row) for row in rows]
