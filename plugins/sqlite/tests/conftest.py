"""Fixtures of the SQLite store's tests: a file, stores on it, waiting tasks, and forked processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import traceback
from contextlib import closing
from functools import partial

import pytest
from mcp_tornado_sqlite import sqlite_store

from mcp_tornado.testing import FakeClock, new_session


@pytest.fixture
def anyio_backend():
    """Run asynchronous tests on asyncio, as Tornado does."""
    return "asyncio"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions.db"


@pytest.fixture
def make_store(path, clock):
    """Return a function that makes a store on the file, not yet entered; keywords are store options."""
    return lambda **options: sqlite_store(f"sqlite:///{path}", options, clock)


@pytest.fixture
async def store(anyio_backend, make_store):
    async with make_store() as opened:
        yield opened


@pytest.fixture
def make_session(clock):
    """Return a function that makes a session that lives for a number of seconds from now."""
    return partial(new_session, clock)


@pytest.fixture
def start_waiting():
    """Return a function that starts `EventLog.wait` in a task and returns the task.

    When it returns, the store has looked for existing events of all tasks that were started, and each change wakes.
    """

    async def start(store, *keys, after=None, timeout=30):
        tasks = [asyncio.create_task(store.wait(key, after, timeout)) for key in keys]
        # While the writer runs this job, each task puts its job into the queue of the reader.
        await store.ping()
        # The reader runs jobs in order: when it has run this one, it has run those of the tasks.
        await store.count()
        return tasks[0] if len(tasks) == 1 else tasks

    return start


@pytest.fixture
def query(path):
    """Return a function that runs SQL on the file without the store, and returns the rows."""

    def run(sql, *parameters):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return connection.execute(sql, parameters).fetchall()

    return run


@pytest.fixture
def read_folder():
    """Return a function that returns the bytes of each file of a folder by name; `None` for what is not a file."""
    return lambda folder: {file.name: file.read_bytes() if file.is_file() else None for file in folder.iterdir()}


class Child:
    """A process that was forked from this one, and the pipe on which it reports lines."""

    def __init__(self, pid, output):
        self.pid = pid
        self.output = output
        self.status = None

    def read_lines(self, count=None):
        """Return the next `count` lines that the process reports; with `None`, all complete lines up to its end."""
        if count is None:
            return [line.rstrip("\n") for line in self.output if line.endswith("\n")]
        return [self.output.readline().rstrip("\n") for _ in range(count)]

    def kill(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self):
        """Wait until the process has ended, and return its exit code; a negative one is the signal that killed it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


@pytest.fixture
def fork():
    """Return a function that runs a function in a forked process.

    The first argument of that function is a function that reports a line of words to this process.
    """
    children = []

    def start(function, *args):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reading)
                function(partial(_report, writing), *args)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        children.append(Child(pid, os.fdopen(reading)))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.output.close()


def _report(writing, *words):
    os.write(writing, (" ".join(map(str, words)) + "\n").encode())
