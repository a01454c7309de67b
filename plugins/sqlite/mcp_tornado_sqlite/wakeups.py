"""Waking those who wait for events, when this process or another one has changed something.

Whoever commits or ends something notes that in the database, see `changes`. While somebody waits, a thread looks there
every few milliseconds; and the writer of this process does so after each commit, so that what is appended here wakes at
once.
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
from mcp_tornado_sqlite.database import Link
from mcp_tornado_sqlite.worker import AwaitableThread, Reader, Work

_log = logging.getLogger(__name__)

_INTERVAL: Final = 0.005
"""Seconds between two looks for changes that other processes have made."""
_RETRY: Final = 0.1
"""Seconds until the next look after one that failed."""


class WakeUps:
    """Who waits in this process, and the thread that looks for what wakes them.

    Args:
        path: Where the database is.
        reader: Looks whether there is something already when somebody begins to wait.
    """

    def __init__(self, path: Path, reader: Reader) -> None:
        self._link = Link(path)
        self._reader = reader
        self._waiters = Waiters()
        self._active = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._newest: int | None = None
        """The number of the newest change that has been told of; `None` until somebody has begun to wait."""
        self._thread = AwaitableThread("mcp-tornado-sqlite-watcher", self._main)

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

    def waited_for(self) -> Collection[str]:
        """Return the keys for which somebody waits."""
        return self._waiters.keys()

    async def wait(self, key: str, timeout: float, is_new: Work[bool]) -> bool:
        """Wait until something changes under a key, at most `timeout` seconds; see `Waiters.wait`.

        Args:
            key: What to wait for.
            timeout: Seconds.
            is_new: Looks whether there is something already.
        """

        def begin(connection: sqlite3.Connection) -> bool:
            with self._lock:
                if self._newest is None:
                    self._newest = changes.newest(connection)
            # Only now: what changes from here on is found by the thread.
            return is_new(connection)

        if not self._active.is_set():
            self._newest = None
            self._active.set()
        try:
            return await self._waiters.wait(key, timeout, lambda: self._reader.run(begin))
        finally:
            if not (self._waiters.keys() or self._closing.is_set()):
                self._active.clear()
                self._newest = None

    def look(self, connection: sqlite3.Connection) -> None:
        """Look for changes, and wake whom they concern; in any thread.

        Raises:
            sqlite3.Error: It cannot be told whether there are any. The next look finds them.
        """
        with self._lock:
            newest = self._newest  # the event loop may forget it at any time
            if newest is None:
                return
            keys, self._newest = changes.since(connection, newest)
            if keys != []:
                # Before anybody else can look: so a commit is answered after those who waited for it are woken.
                self._thread.tell(self._wake, keys)

    def _wake(self, keys: Sequence[str] | None) -> None:
        if keys is None:
            self._waiters.wake_all()
        else:
            for key in keys:
                self._waiters.wake(key)

    def _main(self) -> None:
        interrupted = False
        try:
            self._active.wait()
            while not self._closing.wait(_RETRY if interrupted else _INTERVAL):
                try:
                    self.look(self._link.connection())
                    interrupted = False
                except Exception as error:
                    self._link.close()
                    if not interrupted:
                        _log.warning("changes of other processes are not seen until this is over: %s", error)
                    interrupted = True
                self._active.wait()
        finally:
            self._link.close()
