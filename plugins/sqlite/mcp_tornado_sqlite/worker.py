"""Threads that run jobs on the database, so that the event loop never waits for the disk."""

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

from mcp_tornado_sqlite.database import LOCK_TIMEOUT_SECONDS, Database
from mcp_tornado_sqlite.failures import is_busy, translate_error, unavailable

_T = TypeVar("_T")
Work = Callable[[sqlite3.Connection], _T]

_RESULT_TIMEOUT_SECONDS: Final = LOCK_TIMEOUT_SECONDS + 1.0
"""Seconds after which a caller stops waiting for the result of a job: a disk may hang."""
_MAX_JOBS_PER_TRANSACTION: Final = 200
"""Number of jobs that one transaction runs at most, so that it does not block other processes for long."""
_LOCK_RETRY_SECONDS: Final = 0.0002
"""Average seconds between two attempts to take the lock that another process has."""
_LOCK_YIELD_SECONDS: Final = 0.0005
"""Seconds to leave the lock to other processes after a commit: longer than any pause between two attempts."""
_CONTENTION_SECONDS: Final = 0.1
"""Seconds for which the lock counts as contended after another process had it."""


class AwaitableThread:
    """A thread that belongs to an event loop, and whose end a coroutine can await.

    Args:
        name: The name of the thread.
        run: The function that the thread runs.
    """

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        # A daemon: if the store is never closed or the disk hangs, the thread does not keep the process from exiting.
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def join(self) -> None:
        """Wait until the thread has ended."""
        await self._ended.wait()
        self._thread.join()

    def call_in_loop(self, callback: Callable[..., None], *args: object) -> None:
        """Schedule a callback in the event loop; may be called in any thread."""
        with suppress(RuntimeError):  # the loop is closed, so no task waits for the callback
            self._loop.call_soon_threadsafe(callback, *args)

    def _main(self) -> None:
        try:
            self._run()
        finally:
            self.call_in_loop(self._ended.set)


@dataclass(slots=True, eq=False)
class _Job:
    """A function to be called with a connection, and its result or error."""

    work: Work[Any]
    future: asyncio.Future[Any]
    """The future that the caller awaits; it is resolved in the event loop."""
    deadline: float
    """The time, by `time.monotonic`, after which the job is not begun any more."""
    result: Any = None
    error: Exception | None = None


class Worker(ABC):
    """A thread with a connection of its own that runs jobs in the order in which they are submitted.

    It is an asynchronous context manager: entering connects; leaving runs the jobs in the queue and ends the thread.

    Args:
        path: The path of the database.
        name: The name of the thread.
        may_create: Whether entering creates the database if there is none.
    """

    def __init__(self, path: Path, name: str, *, may_create: bool = False) -> None:
        self._path = path
        self._database = Database(path, may_create=may_create)
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        """The submitted jobs; `None` ends the thread."""
        self._thread = AwaitableThread(name, self._main)

    async def __aenter__(self) -> Self:
        self._thread.start()
        try:
            await self._submit(lambda connection: None)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def run(self, work: Work[_T]) -> _T:
        """Call a function with the connection, in the thread; return what it returns, or raise what it raises.

        If the caller is cancelled before the function is called, it is not called. If the caller is cancelled later,
        the function still runs to its end.

        Raises:
            StoreUnavailable: The database could not be used, or not in time.
        """
        try:
            async with asyncio.timeout(_RESULT_TIMEOUT_SECONDS):
                return await self._submit(work)
        except TimeoutError as error:
            raise unavailable(self._path, "it does not answer") from error

    async def _submit(self, work: Work[_T]) -> _T:
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, future, time.monotonic() + LOCK_TIMEOUT_SECONDS))
        return await future

    async def _stop(self) -> None:
        self._jobs.put(None)
        await self._thread.join()

    # All methods below run in the thread.

    @abstractmethod
    def _run_jobs(self, jobs: Sequence[_Job]) -> None:
        """Run these jobs, and resolve their futures.

        Raises:
            Exception: None of the jobs has changed anything.
        """

    def _resolve(self, jobs: Sequence[_Job]) -> None:
        self._thread.call_in_loop(_resolve_futures, jobs)

    def _main(self) -> None:
        try:
            is_open = True
            while is_open:
                jobs, is_open = self._take_jobs()
                self._run_or_fail(jobs)
        finally:
            self._database.close()

    def _take_jobs(self) -> tuple[list[_Job], bool]:
        """Wait for jobs; return those in the queue, and whether there may be more."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        with suppress(Empty):
            while job is not None:
                jobs.append(job)
                if len(jobs) == _MAX_JOBS_PER_TRANSACTION:
                    break
                job = self._jobs.get_nowait()
        return jobs, job is not None

    def _run_or_fail(self, jobs: Sequence[_Job]) -> None:
        try:
            self._run_jobs(jobs)
        except Exception as error:
            # Closing ends the transaction too. If the connection is broken, a new one may work.
            self._database.close()
            for job in jobs:
                job.error = translate_error(self._path, error) if isinstance(error, sqlite3.Error) else error
            self._resolve(jobs)


class Reader(Worker):
    """A worker for jobs that only read. Each statement sees what is committed when it begins."""

    def _run_jobs(self, jobs: Sequence[_Job]) -> None:
        for job in jobs:
            while not (job.future.done() or self._try_job(job)):
                _pause_before_retry()
        self._resolve(jobs)

    def _try_job(self, job: _Job) -> bool:
        """Run a job; return `False` if the database is locked and the job can be tried again."""
        try:
            job.result = job.work(self._database.connect())
        except sqlite3.Error as error:
            if is_busy(error) and time.monotonic() < job.deadline:
                return False
            self._database.close()
            job.error = translate_error(self._path, error)
        except Exception as error:
            job.error = error
        return True


class Writer(Worker):
    """A worker for jobs that write.

    The jobs in the queue run in one transaction; their futures are resolved when it is on the disk. A job that raises
    an error changes nothing, and does not affect the other jobs.

    Args:
        path: The path of the database; it is created if there is none.
        name: The name of the thread.
        on_commit: Called in the thread, with the connection, after each commit.
    """

    def __init__(self, path: Path, name: str, on_commit: Callable[[sqlite3.Connection], None]) -> None:
        super().__init__(path, name, may_create=True)
        self._on_commit = on_commit
        self._contended_until = 0.0

    def _run_jobs(self, jobs: Sequence[_Job]) -> None:
        connection = self._database.connect()
        jobs = self._begin(connection, jobs)
        if not jobs:
            return
        for job in jobs:
            if not job.future.done():
                self._run_job(connection, job)
        connection.execute("COMMIT")
        with suppress(sqlite3.Error):  # the transaction is committed, whatever fails now
            self._on_commit(connection)
        self._resolve(jobs)
        if time.monotonic() < self._contended_until:
            time.sleep(_LOCK_YIELD_SECONDS)

    def _begin(self, connection: sqlite3.Connection, jobs: Sequence[_Job]) -> Sequence[_Job]:
        """Begin a transaction as soon as no other process writes; return the jobs that can still be run.

        SQLite's own busy handler waits longer after each attempt, so it hardly ever finds a busy database unlocked.
        """
        while jobs:
            try:
                connection.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.Error as error:
                if not is_busy(error):
                    raise
                jobs = self._fail_late_jobs(jobs, error)
            self._contended_until = time.monotonic() + _CONTENTION_SECONDS
            _pause_before_retry()
        return jobs

    def _fail_late_jobs(self, jobs: Sequence[_Job], error: sqlite3.Error) -> list[_Job]:
        """Fail the jobs whose deadline has passed; return the others, without those whose caller is gone."""
        now = time.monotonic()
        late = [job for job in jobs if job.deadline < now]
        if late:
            for job in late:
                job.error = translate_error(self._path, error)
            self._resolve(late)
        return [job for job in jobs if job.deadline >= now and not job.future.done()]

    def _run_job(self, connection: sqlite3.Connection, job: _Job) -> None:
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.work(connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error):
                if not connection.in_transaction:
                    raise  # SQLite has rolled back the whole transaction
                error = translate_error(self._path, error)
            job.error = error
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")


def _pause_before_retry() -> None:
    # Random lengths, so that two processes do not always try at the same time.
    time.sleep(_LOCK_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311  (no security depends on it)


def _resolve_futures(jobs: Sequence[_Job]) -> None:
    """Set the result or error of each job on its future; in the event loop."""
    for job in jobs:
        if job.future.done():
            continue  # the caller was cancelled
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
