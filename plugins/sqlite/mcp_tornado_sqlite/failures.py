"""Errors of SQLite and of the file system as `StoreUnavailable`, with what the operator can do."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from mcp_tornado.stores import StoreUnavailable

_ACCESS: Final = "this process must be allowed to read and write the file, and to write in its folder"
_DAMAGED: Final = (
    "it is damaged: stop all processes, remove it and the files beside it whose names end in -wal and -shm, and put a "
    "backup in its place"
)
_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "another process has kept it locked: end that process, for example a backup or an open shell",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk or the file system failed",
    sqlite3.SQLITE_READONLY: _ACCESS,
    sqlite3.SQLITE_CANTOPEN: _ACCESS,
    sqlite3.SQLITE_PERM: _ACCESS,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL}


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether an operation failed only because another connection has the database locked; a retry helps."""
    return _primary_code(error) in _BUSY


def translate_error(path: Path, error: sqlite3.Error | OSError) -> StoreUnavailable:
    """Return the `StoreUnavailable` to raise for an error of the database at this path."""
    if isinstance(error, PermissionError):
        reason = _ACCESS
    elif isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
    else:
        reason = _ADVICE.get(_primary_code(error), str(error))
    return unavailable(path, reason)


def unavailable(path: Path, reason: str) -> StoreUnavailable:
    """Return the `StoreUnavailable` that names the database at this path and the reason."""
    return StoreUnavailable(f"the SQLite database {path} cannot be used: {reason}")


def _primary_code(error: sqlite3.Error) -> int:
    # Errors that the Python module itself raises have no code.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
