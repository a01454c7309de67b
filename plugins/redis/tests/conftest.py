"""Fixtures of the Redis store's tests: servers that are started here, stores on them, and waiting for conditions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import redis
import trustme
from mcp_tornado_redis import redis_store

from mcp_tornado.stores import StoreUnavailable
from mcp_tornado.testing import FakeClock, new_session

TIMEOUT_SECONDS = 30


def wait_until(condition, description):
    """Wait until a condition holds and return what it returned; block the event loop meanwhile."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {TIMEOUT_SECONDS} s: {description}"
        time.sleep(0.01)
    return result


def find_free_port():
    """Return a free port below the range of ephemeral ports.

    If the port were in that range, a connection to a killed server could be connected to itself.
    """
    while True:
        port = random.randrange(10_000, 22_000)  # a cluster also uses the port that is higher by 10,000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class RedisServer:
    """A redis-server on a free port, with data of its own that survives when it is killed."""

    def __init__(self, program, directory, *options):
        self._command = [program, *options]
        self._directory = directory
        self.port = find_free_port()
        self._process = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def _port_options(self):
        return ("--port", str(self.port))

    def _make_client(self):
        return redis.Redis(port=self.port, protocol=2)

    @contextlib.contextmanager
    def client(self):
        """Give a client that is independent of the store."""
        with self._make_client() as client:
            yield client

    def start(self, *options):
        fixed = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always")
        with (self._directory / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [*self._command, *self._port_options(), *fixed, *options], cwd=self._directory, stdout=out, stderr=out
            )
        wait_until(self._listens, "redis-server listens")

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

    @contextlib.asynccontextmanager
    async def killed(self):
        """Kill the server; at the end, start it again on the same port with its data."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextlib.asynccontextmanager
    async def frozen(self):
        """Suspend the server: it still accepts connections, and answers nothing; resume it at the end."""
        self._process.send_signal(signal.SIGSTOP)
        wait_until(
            lambda: psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED, "redis-server is suspended"
        )
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


class TLSRedisServer(RedisServer):
    """A redis-server that accepts only TLS, with a certificate of an authority of its own."""

    def __init__(self, program, directory):
        self._authority = directory / "ca.pem"
        certificate, key = directory / "certificate.pem", directory / "key.pem"
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(self._authority)
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        files = ("--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", self._authority)
        super().__init__(program, directory, "--tls-auth-clients", "no", *files)

    @property
    def url(self):
        # On a busy machine a handshake sometimes takes longer than the default timeout of the store.
        return f"rediss://localhost:{self.port}?ssl_ca_certs={self._authority}&socket_connect_timeout=8"

    def _port_options(self):
        return ("--port", "0", "--tls-port", str(self.port))

    def _make_client(self):
        return redis.Redis(port=self.port, ssl=True, ssl_ca_certs=str(self._authority), protocol=2)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make_session(clock):
    """Return a function that makes a session that lives for a number of seconds from now."""
    return partial(new_session, clock)


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
                await asyncio.sleep(0.01)

    return retry


@pytest.fixture
def step_loop():
    """Return a function that lets the event loop run some iterations, so that a test can stop a task at each step."""

    async def step(iterations):
        for _ in range(iterations):
            await asyncio.sleep(0)

    return step


@pytest.fixture(scope="module", autouse=True)
def check_nothing_left():
    """Check that the tests of a module leave no process and no socket behind."""
    this = psutil.Process()

    def list_resources():
        sockets = {(connection.laddr, connection.raddr) for connection in this.net_connections()}
        return sockets | {child.pid for child in this.children(recursive=True)}

    before = list_resources()
    yield
    assert list_resources() - before == set()


@pytest.fixture(scope="module")
def program():
    """Give the path of redis-server."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("did not run: redis-server is not on the PATH; apt-get install redis-server")
    return found


@pytest.fixture(scope="module")
def make_directory(tmp_path_factory):
    """Return a function that makes a directory for data; in memory if possible, because disks are slow to sync."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield lambda: tmp_path_factory.mktemp("redis")
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="mcp-tornado-redis-") as parent:
        yield lambda: Path(tempfile.mkdtemp(dir=parent))


@pytest.fixture
def start_server(program, make_directory):
    """Return a function that starts a server for one test; arguments are options of redis-server."""
    with contextlib.ExitStack() as stack:

        def start(*options):
            server = RedisServer(program, make_directory(), *options)
            stack.callback(server.kill)
            return server

        yield start


@pytest.fixture(scope="module")
def shared_server(program, make_directory, check_nothing_left):
    server = RedisServer(program, make_directory())
    yield server
    server.kill()


@pytest.fixture(scope="module")
def shared_tls_server(program, make_directory, check_nothing_left):
    try:
        server = TLSRedisServer(program, make_directory())
    except AssertionError as error:
        if not any(text in str(error) for text in ("Failed finding TLS support", "Bad directive")):
            raise
        pytest.skip("did not run: redis-server was built without TLS; apt-get install redis-server brings one with it")
    yield server
    server.kill()


@pytest.fixture
def server(shared_server):
    """Give a server without data."""
    with shared_server.client() as client:
        client.flushall()
        client.config_resetstat()
    return shared_server


@pytest.fixture
def client(server):
    """Give a client that is independent of the store."""
    with server.client() as opened:
        yield opened


@pytest.fixture
def tls_server(shared_tls_server):
    """Give a server without data that accepts only TLS."""
    with shared_tls_server.client() as client:
        client.flushall()
    return shared_tls_server


@pytest.fixture
def make_store(server, clock):
    """Return a function that makes a store on the server, not yet entered; keywords are store options."""
    return lambda **options: redis_store(server.url, options, clock)


@pytest.fixture
async def open_store(make_store, anyio_backend):
    """Return a function that enters a store on the server; it is closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(**options):
            return await stack.enter_async_context(make_store(**options))

        yield open_one


@pytest.fixture
async def store(open_store):
    """Give an open store."""
    return await open_store()


@pytest.fixture
async def other_store(open_store):
    """Give another open store on the same data."""
    return await open_store()
