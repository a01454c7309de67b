"""What the tests of the SQLite store share: a file, stores on it, and other processes."""

from __future__ import annotations

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
    """Asynchronous tests run on asyncio: that is what Tornado runs on."""
    return "asyncio"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions.db"


@pytest.fixture
def make_store(path, clock):
    """Return a new store on the file; keywords are store options."""
    return lambda **options: sqlite_store(f"sqlite:///{path}", options, clock)


@pytest.fixture
async def store(anyio_backend, make_store):
    async with make_store() as opened:
        yield opened


@pytest.fixture
def make_session(clock):
    """Make a session that lives for a number of seconds from now."""
    return partial(new_session, clock)


@pytest.fixture
def rows(path):
    """Ask the file itself."""

    def ask(sql, *parameters):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return connection.execute(sql, parameters).fetchall()

    return ask


@pytest.fixture
def content():
    """Return all that is in a folder: the bytes of each file by its name."""
    return lambda folder: {file.name: file.read_bytes() if file.is_file() else None for file in folder.iterdir()}


class Child:
    """A process that was forked from this one, and what it tells."""

    def __init__(self, pid, told):
        self.pid = pid
        self.told = told
        self.status = None

    def lines(self, count=None):
        """Return the next lines that it tells: so many, or all that are left."""
        if count is None:
            return [line.rstrip("\n") for line in self.told if line.endswith("\n")]
        return [self.told.readline().rstrip("\n") for _ in range(count)]

    def kill(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self):
        """Wait for its end, and return its exit code; a negative one is the signal that killed it."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


@pytest.fixture
def fork():
    """Run a function in a new process, at once; it is given a function that tells this one a line."""
    children = []

    def start(function, *args):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reading)
                function(partial(_tell, writing), *args)
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
        child.told.close()


def _tell(writing, *words):
    os.write(writing, (" ".join(map(str, words)) + "\n").encode())
