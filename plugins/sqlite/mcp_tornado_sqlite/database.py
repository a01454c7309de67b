"""The database file: how it is created, checked, opened, and opened again after it was replaced.

The file is created for its owner only. A file of another application is never changed.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from mcp_tornado_sqlite.failures import is_busy, translate_error, unavailable
from mcp_tornado_sqlite.schema import check_header, migrate

LOCK_TIMEOUT_SECONDS: Final = 3.0
"""Seconds to wait while another process has the database locked."""

_LOCK_RETRY_SECONDS: Final = 0.01
_MAX_WAL_BYTES: Final = 8 * 1024 * 1024
"""Size in bytes to which SQLite truncates the -wal file when its content has been written to the database."""

_creation_lock = threading.Lock()


class Database:
    """The connection of one thread to a database; it is opened when it is needed.

    If another file takes the place of the first one (for example a backup), the connection is opened again.

    Args:
        path: The path of the database.
        may_create: Whether the first call of `connect` creates the file if there is none. A file that disappears later
            is reported as missing; it is not created again.
    """

    def __init__(self, path: Path, *, may_create: bool = False) -> None:
        self._path = path
        self._may_create = may_create
        self._connection: sqlite3.Connection | None = None
        self._file_id: tuple[int, int] | None = None
        """Device and inode of the file that was connected to last."""

    def connect(self) -> sqlite3.Connection:
        """Return a connection to the file that is at the path now.

        Raises:
            StoreUnavailable: There is no file, or it cannot be used.
        """
        if self._may_create:
            create_file(self._path)
            self._may_create = False
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise unavailable(
                self._path, f"it is not where it was ({error.strerror}): put it back, or restart to create a new one"
            ) from error
        file_id = status.st_dev, status.st_ino
        if self._connection is None or self._file_id != file_id:
            self.close()
            if self._file_id not in (None, file_id):
                _check_replacement(self._path)
            self._connection = open_database(self._path)
            self._file_id = file_id
        return self._connection

    def close(self) -> None:
        """Close the connection; the next call of `connect` opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _check_replacement(path: Path) -> None:
    """Raise `StoreUnavailable` if a file took the place of another one whose -wal file still has content.

    SQLite would apply that -wal file to the new file, and so damage it.
    """
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise unavailable(
            path,
            f"another file took its place, and {wal.name} belongs to the one before: stop all processes, and remove "
            f"{wal.name} and {path.name}-shm before you put a backup in place",
        )


def create_file(path: Path) -> None:
    """Create an empty file that only its owner can read, if the path does not exist.

    SQLite gives the files that it creates beside it the same permissions.

    Raises:
        StoreUnavailable: The file cannot be created.
    """
    try:
        # Under a lock, and before SQLite opens the file: closing a file releases all locks that this process has on it.
        with _creation_lock:
            if not os.path.lexists(path):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        pass  # another process has created it meanwhile
    except FileNotFoundError as error:
        raise unavailable(path, f"there is no folder {path.parent}: make it, or name another file") from error
    except OSError as error:
        raise translate_error(path, error) from error


def open_database(path: Path) -> sqlite3.Connection:
    """Return a connection to an existing database of this package, with its tables up to date.

    SQLite does not wait for locks on this connection; it reports at once that the database is busy. The caller retries.

    Raises:
        StoreUnavailable: The file is not a database of this package, or cannot be used; it is not changed.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    try:
        _check_file(path)
        while True:
            try:
                return _open_and_migrate(path)
            except sqlite3.Error as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_LOCK_RETRY_SECONDS)
    except (sqlite3.Error, OSError) as error:
        raise translate_error(path, error) from error


def _check_file(path: Path) -> None:
    """Raise `StoreUnavailable` if the file is not empty and not a database of this package; change nothing.

    The file is opened as immutable, so SQLite neither locks it nor applies a journal that it finds beside it.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise unavailable(path, "it is not a file: name another one in the URL of the store")
    if status.st_size == 0:
        return
    try:
        with closing(_open(path, "mode=ro&immutable=1")) as connection:
            check_header(connection, path)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise unavailable(
                path, "it is not an SQLite database: name another file in the URL of the store"
            ) from error
        raise


def _open_and_migrate(path: Path) -> sqlite3.Connection:
    with ExitStack() as stack:
        connection = stack.enter_context(closing(_open(path, "mode=rw")))
        migrate(connection, path)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise unavailable(
                path, "its file system cannot share memory between processes: name a file on a local disk"
            )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_MAX_WAL_BYTES}")
        # The rollback data of savepoints need not be on the disk.
        connection.execute("PRAGMA temp_store = MEMORY")
        stack.pop_all()
    return connection


def _open(path: Path, parameters: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?{parameters}", uri=True, isolation_level=None, timeout=0)
