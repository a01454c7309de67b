"""Where the stores of these tests keep their data: in mongomock, in a server started here, in a deployment named."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pymongo
import pytest
from mcp_tornado_mongodb import mongodb_store

from mcp_tornado.testing import FakeClock

DEADLINE = 30


class NxServer:
    """The server nx-27017, on a free port, with data of its own."""

    def __init__(self, program, directory):
        self._program, self._directory = program, directory
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
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


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(scope="session", autouse=True)
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


@pytest.fixture(scope="session")
def nx_server(tmp_path_factory, nothing_is_left_behind):
    program = shutil.which("nx-27017", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("did not run: the server nx-27017 is not installed; pip install nx-27017")
    directory = tmp_path_factory.mktemp("nx")
    (directory / "data").mkdir()
    server = NxServer(program, directory)
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
    url = os.environ.get("TEST_MONGODB_URL")
    if not url:
        pytest.skip(
            "did not run: no deployment to test against; name one in TEST_MONGODB_URL, for example that of "
            "docker/compose.yaml, mongodb://127.0.0.1:27017/?replicaSet=rs0"
        )
    with empty_database(url) as named:
        yield named


@contextlib.contextmanager
def empty_database(url):
    name = f"mcp_tornado_test_{secrets.token_hex(8)}"
    scheme, hosts, query = re.fullmatch(r"(\w+(?:\+srv)?://)([^/?]+)(?:/[^?]*)?(\?.*)?", url).groups()
    yield f"{scheme}{hosts}/{name}{query or ''}"
    with pymongo.MongoClient(url) as client:
        client.drop_database(name)


@pytest.fixture
def nx_store(nx_url, clock):
    """Make a store on nx-27017, not yet entered; keywords are store options."""
    return lambda **options: mongodb_store(nx_url, options, clock)
