"""The table `changes`: keys whose events or session changed, so that other processes can wake their waiters.

Changes are numbered in order, and no number is used twice. The table keeps the newest changes, so the newest one is
always there. A reader that comes back later can tell from the numbers whether it has missed any.
"""

from __future__ import annotations

import sqlite3
from typing import Final

_MAX_CHANGES: Final = 1000


def add(connection: sqlite3.Connection, key: str) -> None:
    """Record a change of this key, in the transaction that makes the change."""
    number = connection.execute("INSERT INTO changes (key) VALUES (?)", (key,)).lastrowid
    connection.execute("DELETE FROM changes WHERE id <= ? - ?", (number, _MAX_CHANGES))


def newest_number(connection: sqlite3.Connection) -> int:
    """Return the number of the newest change, or 0 if there is none."""
    return connection.execute("SELECT coalesce(max(id), 0) FROM changes").fetchone()[0]


def read_since(connection: sqlite3.Connection, number: int) -> tuple[list[str] | None, int]:
    """Return the keys that changed after the change with this number, and the number of the newest change.

    Args:
        number: The last change that the caller knows; 0 returns all changes.

    Returns:
        The keys, or `None` if some of the changes after `number` are no longer in the table; and the newest number.
    """
    # The change with this number is read too: if it is missing, later ones may be missing as well.
    first = max(number, 1)
    rows = connection.execute("SELECT id, key FROM changes WHERE id >= ? ORDER BY id", (first,)).fetchall()
    if not rows:
        return None if number else [], 0
    newest = rows[-1][0]
    if rows[0][0] != first:
        return None, newest
    return [key for change, key in rows if change > number], newest
