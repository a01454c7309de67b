"""Where the stores of these tests keep their data: in mongomock, in a server started here, in a deployment named."""

from __future__ import annotations

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

from mcp_tornado.stores import event_bounds
from mcp_tornado.testing import FakeClock, new_session

DEADLINE = 30


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class NxServer:
    """The server nx-27017, on a free port, with data of its own."""

    def __init__(self, program, directory):
        self._program, self._directory = program, directory
        self.port = free_port()
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
        deadline = time.monotonic() + DEADLINE
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


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind():
    """No process and no socket outlives the tests that made it."""

    def held():
        this = psutil.Process()
        sockets = {(connection.laddr, connection.raddr) for connection in this.net_connections()}
        return sockets | {child.pid for child in this.children(recursive=True)}

    before = held()
    yield
    # A thread of Motor's lets go of its socket only when the server has answered.
    deadline = time.monotonic() + DEADLINE
    while held() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert held() - before == set()


@pytest.fixture(scope="module")
def nx_server(tmp_path_factory, nothing_is_left_behind):
    program = shutil.which("nx-27017", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("did not run: the server nx-27017 is not installed; pip install nx-27017")
    # In memory if that can be had: a busy disk takes seconds to sync.
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
    """Name an empty database on nx-27017; it is dropped after the test."""
    with empty_database(nx_server.url) as url:
        yield url


@pytest.fixture
def nx_outage(nx_server):
    """Kill nx-27017, and start it again on the same data at the end."""

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
    """Name an empty database on the deployment in TEST_MONGODB_URL; it is dropped after the test."""
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
    """Keep nx-27017 from answering, and let it go on at the end."""

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
    return free_port()


class Place(NamedTuple):
    """Where stores keep their data."""

    make_store: Any
    """Makes a store, not yet entered; keywords are store options."""
    database: Any
    """Looks into the data, past the stores."""


@pytest.fixture
def nx(nx_url, clock):
    with pymongo.MongoClient(nx_url) as client:
        yield Place(lambda **options: mongodb_store(nx_url, options, clock), client.get_default_database())


@pytest.fixture
def mongomocked(clock):
    data = mongomock.MongoClient()

    def make_store(**options):
        return MongoStore(clock, event_bounds(options), lambda: AsyncMongoMockClient(mock_mongo_client=data))

    return Place(make_store, data["mcp_tornado"])


@pytest.fixture(params=["mongomocked", "nx"])
def place(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def make_session(clock):
    """Make a session that lives for a number of seconds from now."""
    return partial(new_session, clock)
