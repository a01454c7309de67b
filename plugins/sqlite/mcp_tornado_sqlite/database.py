"""The file: made private, never touched where it is somebody else's, and found again after it was away."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from mcp_tornado_sqlite.failures import is_busy, refused, unavailable
from mcp_tornado_sqlite.schema import check_head, migrate

LOCK_LIMIT: Final = 3.0
"""Seconds to wait for another process that has the database locked."""

_RETRY: Final = 0.01
_WAL_KEPT: Final = 8 * 1024 * 1024
"""Bytes to which the -wal file is cut when what was in it has gone into the database."""

_making = threading.Lock()


class Link:
    """A thread's connection to a database, made when it is needed.

    Where another file has taken the place of the first (a backup, say), the connection is made anew.

    Args:
        path: Where the database is.
        may_make: Whether the first call makes one where there is none. One that vanishes later is missed, not replaced.
    """

    def __init__(self, path: Path, *, may_make: bool = False) -> None:
        self._path = path
        self._may_make = may_make
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        """Which file it is that the connection is to."""

    def connection(self) -> sqlite3.Connection:
        """Return a connection to the file that is at the path now.

        Raises:
            StoreUnavailable: There is none, or it cannot be used.
        """
        if self._may_make:
            make_file(self._path)
            self._may_make = False
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise refused(
                self._path, f"it is not where it was ({error.strerror}): put it back, or restart for a new one"
            ) from error
        file = status.st_dev, status.st_ino
        if self._connection is None or self._file != file:
            self.close()
            if self._file not in (None, file):
                _check_replaced(self._path)
            self._connection = connect(self._path)
            self._file = file
        return self._connection

    def close(self) -> None:
        """Close the connection; the next call makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _check_replaced(path: Path) -> None:
    """Refuse a file that took the place of another one, whose -wal file is still there.

    SQLite would play that into the new file, and so damage it.
    """
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists() and wal.stat().st_size:
        raise refused(
            path,
            f"another file took its place, and {wal.name} belongs to the one before: stop all processes, and remove "
            f"{wal.name} and {path.name}-shm before you put a backup in place",
        )


def make_file(path: Path) -> None:
    """Make an empty file for a database, which its owner alone may read, where there is nothing yet.

    SQLite gives the files that it makes beside it the same permissions.

    Raises:
        StoreUnavailable: There is something else than a file, or none can be made.
    """
    try:
        # One at a time, and before SQLite has it open: closing a file lets go of all locks that this process has on it.
        with _making:
            if not os.path.lexists(path):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        pass  # another process was faster
    except FileNotFoundError as error:
        raise refused(path, f"there is no folder {path.parent}: make it, or name another file") from error
    except OSError as error:
        raise unavailable(path, error) from error


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection to an existing database of ours, with its tables up to date.

    The connection does not wait for locks, but says that the database is busy: who uses it tries again.

    Raises:
        StoreUnavailable: It is no database of ours, or cannot be used; it is left as it is.
    """
    deadline = time.monotonic() + LOCK_LIMIT
    try:
        _check(path)
        while True:
            try:
                return _connected(path)
            except sqlite3.Error as error:
                if not is_busy(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY)
    except (sqlite3.Error, OSError) as error:
        raise unavailable(path, error) from error


def _check(path: Path) -> None:
    """Refuse what is no database of ours, without changing anything.

    SQLite is told that nobody writes the file: so it neither locks it, nor looks for a journal that it would play back.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise refused(path, "it is no file: name another one in the URL of the store")
    if status.st_size == 0:
        return
    try:
        with closing(_open(path, "mode=ro&immutable=1")) as connection:
            check_head(connection, path)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise refused(path, "it is no SQLite database: name another file in the URL of the store") from error
        raise


def _connected(path: Path) -> sqlite3.Connection:
    with ExitStack() as stack:
        connection = stack.enter_context(closing(_open(path, "mode=rw")))
        migrate(connection, path)
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise refused(path, "its file system cannot share memory between processes: name a file on a local disk")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
        # What a savepoint notes, to be able to go back, need not be on the disk.
        connection.execute("PRAGMA temp_store = MEMORY")
        stack.pop_all()
    return connection


def _open(path: Path, parameters: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?{parameters}", uri=True, isolation_level=None, timeout=0)
