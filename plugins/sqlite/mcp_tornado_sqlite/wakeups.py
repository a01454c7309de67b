"""Waking the tasks that wait for events, after a change by this process or by another one.

Every change is recorded in the database, see `changes`. While a task waits, a thread reads the new changes every few
milliseconds. The writer of this process reads them after each of its commits too, so that a change by this process
wakes its waiters at once.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mcp_tornado.stores import Waiters
from mcp_tornado_sqlite import changes
from mcp_tornado_sqlite.database import Database
from mcp_tornado_sqlite.worker import AwaitableThread, Reader, Work

_log = logging.getLogger(__name__)

_CHECK_INTERVAL_SECONDS: Final = 0.005
"""Seconds between two checks for changes by other processes."""
_RETRY_SECONDS: Final = 0.1
"""Seconds between a check that failed and the next one."""


class WakeUps:
    """The tasks of this process that wait for events, and the thread that checks for changes.

    Args:
        path: The path of the database.
        reader: Runs the check for existing events when a task begins to wait.
    """

    def __init__(self, path: Path, reader: Reader) -> None:
        self._database = Database(path)
        self._reader = reader
        self._waiters = Waiters()
        self._active = threading.Event()
        """Set while a task waits, and when the store is closed."""
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._newest: int | None = None
        """The number of the newest change that was handled; `None` until the first waiting task has read it."""
        self._thread = AwaitableThread("mcp-tornado-sqlite-watcher", self._run)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._waiters.wake_all()
        self._active.set()
        await self._thread.join()

    def waited_keys(self) -> Collection[str]:
        """Return the keys that tasks of this process wait for."""
        return self._waiters.keys()

    async def wait(self, key: str, timeout: float, has_news: Work[bool]) -> bool:
        """Wait until a change of this key, at most `timeout` seconds; see `Waiters.wait`.

        Args:
            key: The key to wait for.
            timeout: Seconds.
            has_news: Returns whether the caller need not wait, because there is something new already.
        """

        def begin(connection: sqlite3.Connection) -> bool:
            with self._lock:
                if self._newest is None:
                    self._newest = changes.newest_number(connection)
            # In this order, so that the thread finds every change that `has_news` does not see.
            return has_news(connection)

        if not self._active.is_set():
            self._newest = None
            self._active.set()
        try:
            return await self._waiters.wait(key, timeout, lambda: self._reader.run(begin))
        finally:
            if not (self._waiters.keys() or self._closing.is_set()):
                self._active.clear()
                self._newest = None

    def check_changes(self, connection: sqlite3.Connection) -> None:
        """Read the new changes, and wake the tasks that wait for their keys; may be called in any thread.

        Raises:
            sqlite3.Error: The changes could not be read. The next call finds them.
        """
        with self._lock:
            newest = self._newest  # the event loop may reset it at any time
            if newest is None:
                return
            keys, self._newest = changes.read_since(connection, newest)
            if keys != []:
                # Inside the lock: when another thread finds no new changes, their waiters are already scheduled to
                # wake. So a commit is answered after its waiters have been woken.
                self._thread.call_in_loop(self._wake, keys)

    def _wake(self, keys: Sequence[str] | None) -> None:
        if keys is None:
            self._waiters.wake_all()
        else:
            for key in keys:
                self._waiters.wake(key)

    def _run(self) -> None:
        interrupted = False
        try:
            self._active.wait()
            while not self._closing.wait(_RETRY_SECONDS if interrupted else _CHECK_INTERVAL_SECONDS):
                try:
                    self.check_changes(self._database.connect())
                    interrupted = False
                except Exception as error:
                    self._database.close()
                    if not interrupted:
                        _log.warning(
                            "changes by other processes are not noticed until the database can be used again: %s", error
                        )
                    interrupted = True
                self._active.wait()
        finally:
            self._database.close()
