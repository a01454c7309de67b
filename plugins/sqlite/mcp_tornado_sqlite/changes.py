"""Which sessions and processes had an event, or ended: what those who wait in other processes go by.

Changes are numbered in order. The newest are kept, so the newest of all always is, and no number is given twice. Who
asks again later sees by that whether it has missed some.
"""

from __future__ import annotations

import sqlite3
from typing import Final

_KEPT: Final = 1000


def note(connection: sqlite3.Connection, key: str) -> None:
    """Note a change, in the transaction that makes it."""
    number = connection.execute("INSERT INTO changes (key) VALUES (?)", (key,)).lastrowid
    connection.execute("DELETE FROM changes WHERE id <= ? - ?", (number, _KEPT))


def newest(connection: sqlite3.Connection) -> int:
    """Return the number of the newest change: 0 where there was none."""
    return connection.execute("SELECT coalesce(max(id), 0) FROM changes").fetchone()[0]


def since(connection: sqlite3.Connection, number: int) -> tuple[list[str] | None, int]:
    """Return whose changes came after the one with this number (0: all), and the number of the newest.

    For the keys, `None` where that is not known any more.
    """
    # The change with this number is asked for too: it is there, unless it is too long ago.
    first = max(number, 1)
    rows = connection.execute("SELECT id, key FROM changes WHERE id >= ? ORDER BY id", (first,)).fetchall()
    if not rows:
        return None if number else [], 0
    newest_number = rows[-1][0]
    if rows[0][0] != first:
        return None, newest_number
    return [key for other, key in rows if other > number], newest_number
