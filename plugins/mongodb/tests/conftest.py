"""Fixtures of the MongoDB store's tests: stores in mongomock, on nx-27017, and on an external deployment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mongomock
import psutil
import pymongo
import pytest
from mcp_tornado_mongodb import MongoStore, mongodb_store
from mongomock_motor import AsyncMongoMockClient

from mcp_tornado.stores import StoreUnavailable, event_bounds
from mcp_tornado.testing import FakeClock, new_session

TIMEOUT_SECONDS = 30


def find_free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class NxServer:
    """The server nx-27017, on a free port, with data of its own."""

    def __init__(self, program, directory):
        self._program, self._directory = program, directory
        self.port = find_free_port()
        self._process = None

    @property
    def url(self):
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self):
        arguments = {"--data-dir": "data", "-p": self.port, "--log-file": "log", "--pid-file": "pid"}
        with (self._directory / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [self._program, *(str(part) for pair in arguments.items() for part in pair)],
                cwd=self._directory,
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, (self._directory / "out").read_text()
                assert time.monotonic() < deadline, "nx-27017 does not listen"
                time.sleep(0.01)
            else:
                return

    def kill(self):
        self._process.kill()
        self._process.wait()

    def signal(self, number):
        self._process.send_signal(number)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def eventually():
    """Return a function that waits until a condition holds; if it does not, the failure quotes the description."""

    async def wait(condition, description):
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while not condition():
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"not within {TIMEOUT_SECONDS} s: {description}")

    return wait


@pytest.fixture
def retry_until_available():
    """Return a function that calls an operation until the store is available, and returns its result."""

    async def retry(operation):
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return await operation()
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    return retry


@pytest.fixture(scope="module", autouse=True)
def check_nothing_left():
    """Check that the tests of a module leave no process and no socket behind."""

    def list_resources():
        this = psutil.Process()
        sockets = {(connection.laddr, connection.raddr) for connection in this.net_connections()}
        return sockets | {child.pid for child in this.children(recursive=True)}

    before = list_resources()
    yield
    # A thread of Motor closes its socket only when the server has answered.
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while list_resources() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list_resources() - before == set()


@pytest.fixture(scope="module")
def nx_server(tmp_path_factory, check_nothing_left):
    program = shutil.which("nx-27017", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("did not run: the server nx-27017 is not installed; pip install nx-27017")
    # In memory if possible: a busy disk takes seconds to sync.
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("nx")
    with tempfile.TemporaryDirectory(dir=parent, prefix="mcp-tornado-nx-") as directory:
        (Path(directory) / "data").mkdir()
        server = NxServer(program, Path(directory))
        server.start()
        yield server
        server.kill()


@pytest.fixture
def nx_url(nx_server):
    """Give the URL of an empty database on nx-27017; it is dropped after the test."""
    with empty_database(nx_server.url) as url:
        yield url


@pytest.fixture
def nx_outage(nx_server):
    """Give a context manager that kills nx-27017, and starts it again on the same data at the end."""

    @contextlib.asynccontextmanager
    async def outage():
        nx_server.kill()
        try:
            yield
        finally:
            nx_server.start()

    return outage()


@pytest.fixture
def deployment_url():
    """Give the URL of an empty database on the deployment in TEST_MONGODB_URL; it is dropped after the test."""
    with empty_database(os.environ["TEST_MONGODB_URL"]) as url:
        yield url


@contextlib.contextmanager
def empty_database(url):
    name = f"mcp_tornado_test_{secrets.token_hex(8)}"
    scheme, hosts, query = re.fullmatch(r"(\w+(?:\+srv)?://)([^/?]+)(?:/[^?]*)?(\?.*)?", url).groups()
    yield f"{scheme}{hosts}/{name}{query or ''}"
    with pymongo.MongoClient(url) as client:
        client.drop_database(name)


@pytest.fixture
def nx_hang(nx_server):
    """Give a context manager that suspends nx-27017, and resumes it at the end."""

    @contextlib.asynccontextmanager
    async def hang():
        nx_server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            nx_server.signal(signal.SIGCONT)

    return hang()


@pytest.fixture
def unused_port():
    return find_free_port()


class Backend(NamedTuple):
    """A database for stores."""

    make_store: Any
    """A function that makes a store, not yet entered; keywords are store options."""
    database: Any
    """The database, accessed without the store."""


@pytest.fixture
def nx_backend(nx_url, clock):
    with pymongo.MongoClient(nx_url) as client:
        yield Backend(lambda **options: mongodb_store(nx_url, options, clock), client.get_default_database())


@pytest.fixture
def mongomock_backend(clock):
    data = mongomock.MongoClient()

    def make_store(**options):
        return MongoStore(clock, event_bounds(options), lambda: AsyncMongoMockClient(mock_mongo_client=data))

    return Backend(make_store, data["mcp_tornado"])


@pytest.fixture(params=["mongomock_backend", "nx_backend"], ids=["mongomock", "nx"])
def backend(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def make_session(clock):
    """Return a function that makes a session that lives for a number of seconds from now."""
    return partial(new_session, clock)
