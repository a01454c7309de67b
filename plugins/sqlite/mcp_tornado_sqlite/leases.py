"""Leases: the SQL of each operation, to be run inside a transaction."""

from __future__ import annotations

import sqlite3


def claim(connection: sqlite3.Connection, name: str, owner: str, ttl: int, now: int) -> bool:
    """See `EventLog.claim`; `ttl` and `now` are in microseconds."""
    claimed = connection.execute(
        """
        INSERT INTO leases (name, owner, expires_at) VALUES (:name, :owner, :expires_at)
        ON CONFLICT (name) DO UPDATE SET owner = :owner, expires_at = :expires_at
        WHERE owner = :owner OR expires_at <= :now
        """,
        {"name": name, "owner": owner, "expires_at": now + ttl, "now": now},
    )
    return claimed.rowcount == 1


def release(connection: sqlite3.Connection, name: str, owner: str) -> None:
    """See `EventLog.release`."""
    connection.execute("DELETE FROM leases WHERE name = ? AND owner = ?", (name, owner))


def sweep(connection: sqlite3.Connection, limit: int, now: int) -> int:
    """Remove at most `limit` expired leases, and return how many were removed."""
    return connection.execute(
        "DELETE FROM leases WHERE name IN (SELECT name FROM leases WHERE expires_at <= ? LIMIT ?)", (now, limit)
    ).rowcount
