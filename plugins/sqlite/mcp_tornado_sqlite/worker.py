"""Threads that work with the database, so that the event loop never waits for the disk."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from mcp_tornado_sqlite.database import LOCK_LIMIT, Link
from mcp_tornado_sqlite.failures import is_busy, refused, unavailable

_T = TypeVar("_T")
Work = Callable[[sqlite3.Connection], _T]

_ANSWER_LIMIT: Final = LOCK_LIMIT + 1.0
"""Seconds after which no answer is waited for any longer: a disk may hang."""
_AT_ONCE: Final = 200
"""How many jobs are taken at once: no transaction may keep other processes waiting for long."""
_LOOK_AGAIN: Final = 0.0002
"""Seconds, on the average, between two looks whether another process has unlocked the database."""
_REST: Final = 0.0005
"""Seconds in which another process may take the lock: longer than any pauses between two looks."""
_CONTENDED: Final = 0.1
"""Seconds for which the lock counts as contended after another process was seen to have it."""


class AwaitableThread:
    """A thread beside an event loop, whose end can be awaited.

    Args:
        name: Its name.
        run: What it does.
    """

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        # Where the store is never closed, or the disk hangs, it does not keep the process from ending.
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    async def join(self) -> None:
        """Wait until it has ended."""
        await self._ended.wait()
        self._thread.join()

    def tell(self, callback: Callable[..., None], *args: object) -> None:
        """Have the event loop call something."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *args)

    def _main(self) -> None:
        try:
            self._run()
        finally:
            self.tell(self._ended.set)


@dataclass(slots=True, eq=False)
class _Job:
    """Something to be done with a connection, and then what came of it."""

    work: Work[Any]
    answer: asyncio.Future[Any]
    deadline: float
    """When it is too late to begin, by `time.monotonic`."""
    result: Any = None
    error: Exception | None = None


class Worker(ABC):
    """A thread with a connection of its own, that does jobs in the order in which they come.

    It is an asynchronous context manager: entering connects; leaving does what is waiting still, and ends the thread.

    Args:
        path: Where the database is.
        name: The thread's name.
        may_make: Whether entering makes the database where there is none.
    """

    def __init__(self, path: Path, name: str, *, may_make: bool = False) -> None:
        self._path = path
        self._link = Link(path, may_make=may_make)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = AwaitableThread(name, self._main)

    async def __aenter__(self) -> Self:
        self._thread.start()
        try:
            await self._done(lambda connection: None)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def run(self, work: Work[_T]) -> _T:
        """Have a job done in the thread; return what it returns, or raise what it raises.

        One that is cancelled before it has begun is not done. One that has begun is done, whoever is there to hear.

        Raises:
            StoreUnavailable: The database could not be used, or not in time.
        """
        try:
            async with asyncio.timeout(_ANSWER_LIMIT):
                return await self._done(work)
        except TimeoutError as error:
            raise refused(self._path, "it does not answer") from error

    async def _done(self, work: Work[_T]) -> _T:
        answer: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, answer, time.monotonic() + LOCK_LIMIT))
        return await answer

    async def _stop(self) -> None:
        self._jobs.put(None)
        await self._thread.join()

    # What follows runs in the thread.

    @abstractmethod
    def _do(self, jobs: Sequence[_Job]) -> None:
        """Do these jobs, and answer them.

        Raises:
            Exception: None of them is done.
        """

    def _answer(self, jobs: Sequence[_Job]) -> None:
        self._thread.tell(_answer, jobs)

    def _main(self) -> None:
        try:
            more = True
            while more:
                jobs, more = self._take()
                self._try(jobs)
        finally:
            self._link.close()

    def _take(self) -> tuple[list[_Job], bool]:
        """Wait for jobs, and return those that are waiting, and whether there may be more."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        with suppress(Empty):
            while job is not None:
                jobs.append(job)
                if len(jobs) == _AT_ONCE:
                    break
                job = self._jobs.get_nowait()
        return jobs, job is not None

    def _try(self, jobs: Sequence[_Job]) -> None:
        try:
            self._do(jobs)
        except Exception as error:
            # That ends the transaction too; and whatever is wrong with this connection, a new one may be right.
            self._link.close()
            for job in jobs:
                job.error = unavailable(self._path, error) if isinstance(error, sqlite3.Error) else error
            self._answer(jobs)


class Reader(Worker):
    """A worker for jobs that only read. Each statement sees what is committed when it begins."""

    def _do(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            while not (job.answer.done() or self._read(job)):
                _pause()
        self._answer(jobs)

    def _read(self, job: _Job) -> bool:
        """Do a job, unless the database is locked and the job can wait."""
        try:
            job.result = job.work(self._link.connection())
        except sqlite3.Error as error:
            if is_busy(error) and time.monotonic() < job.deadline:
                return False
            self._link.close()
            job.error = unavailable(self._path, error)
        except Exception as error:
            job.error = error
        return True


class Writer(Worker):
    """A worker for jobs that write.

    Those that are waiting are done in one transaction, and answered when it is on the disk. One that raises an error
    changes nothing, and does the others no harm.

    Args:
        path: Where the database is; it is made where there is none.
        name: The thread's name.
        committed: Called with the connection after each commit, in the thread.
    """

    def __init__(self, path: Path, name: str, committed: Callable[[sqlite3.Connection], None]) -> None:
        super().__init__(path, name, may_make=True)
        self._committed = committed
        self._contended_until = 0.0

    def _do(self, jobs: Sequence[_Job]) -> None:
        connection = self._link.connection()
        jobs = self._begin(connection, jobs)
        if not jobs:
            return
        for job in jobs:
            if not job.answer.done():
                self._write(connection, job)
        connection.execute("COMMIT")
        with suppress(sqlite3.Error):  # it is committed, whatever fails now
            self._committed(connection)
        self._answer(jobs)
        if time.monotonic() < self._contended_until:
            time.sleep(_REST)

    def _begin(self, connection: sqlite3.Connection, jobs: Sequence[_Job]) -> Sequence[_Job]:
        """Begin a transaction as soon as no other process writes; return the jobs for which it was not too late.

        SQLite's own way of waiting looks ever more seldom, so it would hardly ever find a busy database unlocked.
        """
        while jobs:
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.Error as error:
                if not is_busy(error):
                    raise
                jobs = self._not_too_late(jobs, error)
            self._contended_until = time.monotonic() + _CONTENDED
            _pause()
        return jobs

    def _not_too_late(self, jobs: Sequence[_Job], error: sqlite3.Error) -> list[_Job]:
        """Return the jobs that are wanted still and can wait; the others are answered."""
        now = time.monotonic()
        late = [job for job in jobs if job.deadline < now]
        if late:
            for job in late:
                job.error = unavailable(self._path, error)
            self._answer(late)
        return [job for job in jobs if job.deadline >= now and not job.answer.done()]

    def _write(self, connection: sqlite3.Connection, job: _Job) -> None:
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.work(connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error):
                if not connection.in_transaction:
                    raise  # SQLite has undone the whole transaction
                error = unavailable(self._path, error)
            job.error = error
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")


def _pause() -> None:
    # Not always of the same length, so that no two processes fall into step.
    time.sleep(_LOOK_AGAIN * random.uniform(0.5, 1.5))  # noqa: S311  (it is no secret)


def _answer(jobs: Sequence[_Job]) -> None:
    """Answer jobs; in the event loop."""
    for job in jobs:
        if job.answer.done():
            continue  # whoever asked is gone
        if job.error is not None:
            job.answer.set_exception(job.error)
        else:
            job.answer.set_result(job.result)
