"""Where the stores of these tests keep their data: on servers started here, and on a deployment that is named."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time

import psutil
import pytest
import redis

from mcp_tornado.testing import FakeClock

DEADLINE = 30


def wait_until(condition):
    """Wait until a condition holds; return what it returned."""
    deadline = time.monotonic() + DEADLINE
    while not (holds := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)
    return holds


class RedisServer:
    """A redis-server with data of its own, on a free port."""

    def __init__(self, directory, *options, url_options=""):
        self._directory, self._options, self._url_options = directory, options, url_options
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._process = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def _arguments(self):
        return ["--port", str(self.port)]

    def client(self, **options):
        return redis.Redis(port=self.port, retry=None, **options)

    def start(self, *more):
        fixed = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        with (self._directory / "out").open("ab") as out:
            self._process = subprocess.Popen(
                ["redis-server", *self._arguments(), *fixed, *self._options, *more],
                cwd=self._directory,
                stdout=out,
                stderr=out,
            )
        wait_until(self._listens)

    def _listens(self):
        assert self._process.poll() is None, (self._directory / "out").read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self):
        self._process.kill()
        self._process.wait()

    def freeze(self):
        self._process.send_signal(signal.SIGSTOP)
        process = psutil.Process(self._process.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)

    def thaw(self):
        self._process.send_signal(signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def frozen(self):
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    @contextlib.asynccontextmanager
    async def killed(self):
        self.kill()
        try:
            yield
        finally:
            self.start()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()
