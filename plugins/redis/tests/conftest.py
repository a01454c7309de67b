"""Where the stores of these tests keep their data: on servers started here, and on a deployment that is named."""

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

from mcp_tornado.testing import FakeClock, new_session

DEADLINE = 30


def wait_until(condition):
    """Wait until a condition holds and return what it returned."""
    deadline = time.monotonic() + DEADLINE
    while not (holds := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)
    return holds


async def eventually_holds(condition):
    """Wait until a condition holds, and let other tasks go on meanwhile."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


def free_port():
    """Return a port that nobody listens on, and that no connection is given as its own end.

    Else who tries to reach a server that was killed might, on this machine, be connected to itself.
    """
    while True:
        port = random.randrange(10_000, 22_000)  # a cluster uses the port 10,000 above as well
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class RedisServer:
    """A redis-server on a free port, with data of its own that survives when it is killed."""

    def __init__(self, program, directory, *options):
        self._command = [program, *options]
        self._directory = directory
        self.port = free_port()
        self._process = None
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def _listening(self):
        return ("--port", str(self.port))

    def _client(self):
        return redis.Redis(port=self.port, protocol=2)

    @contextlib.contextmanager
    def client(self):
        """Give a client that has nothing to do with the store."""
        with self._client() as client:
            yield client

    def start(self, *options):
        fixed = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always")
        with (self._directory / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [*self._command, *self._listening(), *fixed, *options], cwd=self._directory, stdout=out, stderr=out
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

    @contextlib.asynccontextmanager
    async def killed(self):
        """Kill it, and start it again on the same port with its data."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextlib.asynccontextmanager
    async def frozen(self):
        """Stop it as it stands: it accepts connections still, and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


class TLSRedisServer(RedisServer):
    """A redis-server that speaks TLS alone, with a certificate of an authority of its own."""

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
        # On a busy machine a handshake now and then takes longer than the store would wait by itself.
        return f"rediss://localhost:{self.port}?ssl_ca_certs={self._authority}&socket_connect_timeout=8"

    def _listening(self):
        return ("--port", "0", "--tls-port", str(self.port))

    def _client(self):
        return redis.Redis(port=self.port, ssl=True, ssl_ca_certs=str(self._authority), protocol=2)


class Proxy:
    """What stands between a store and its server, and loses things.

    It counts and loses exchanges of one request and one answer. Those that begin a connection are left alone, and so
    are connections for listening.
    """

    def __init__(self, port):
        self._server_port = port
        self._tasks = set()
        self._connections = {}
        self.requests = 0
        self.losses = []
        """For each of the next exchanges, what is lost together with the connection: "request", "answer" or `None`."""

    async def __aenter__(self):
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listening.wait_closed()

    def break_all(self, *, with_reset):
        """Break all connections but those for listening, as a server does that goes away, or a host."""
        for client in [client for client, listens in self._connections.items() if not listens]:
            if with_reset:
                linger = b"\1\0\0\0\0\0\0\0"
                client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.transport.abort()

    async def _accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self._connections[writer] = False
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        lost_answers = asyncio.Event()
        answers = asyncio.ensure_future(self._forward_answers(server_reader, writer, lost_answers))
        try:
            await self._forward_requests(reader, writer, server_writer, lost_answers)
        finally:
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            for each in (writer, server_writer):
                each.close()
            for each in (writer, server_writer):
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            del self._connections[writer]
            self._tasks.discard(asyncio.current_task())

    async def _forward_requests(self, reader, writer, server_writer, lost_answers):
        with contextlib.suppress(OSError):
            while data := await reader.read(1_000_000):
                self._connections[writer] |= b"SUBSCRIBE" in data
                if not self._connections[writer] and b"SETINFO" not in data:
                    self.requests += 1
                    lost = self.losses.pop(0) if self.losses else None
                    if lost == "request":
                        return
                    if lost == "answer":
                        lost_answers.set()
                server_writer.write(data)

    async def _forward_answers(self, server_reader, writer, lost_answers):
        while data := await server_reader.read(1_000_000):
            if lost_answers.is_set():
                break
            writer.write(data)
        writer.close()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make_session(clock):
    """Make a session that lives for a number of seconds from now."""
    return partial(new_session, clock)


@pytest.fixture
def eventually():
    """Wait until a condition holds."""
    return eventually_holds


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_behind():
    """No process and no socket outlives the tests that made it."""
    this = psutil.Process()

    def held():
        sockets = {(connection.laddr, connection.raddr) for connection in this.net_connections()}
        return sockets | {child.pid for child in this.children(recursive=True)}

    before = held()
    yield
    assert held() - before == set()


@pytest.fixture(scope="module")
def program():
    """Find redis-server."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("did not run: redis-server is not on the PATH; apt-get install redis-server")
    return found


@pytest.fixture(scope="module")
def make_directory(tmp_path_factory):
    """Make a directory for a server's data: in memory if that can be had, since a busy disk takes seconds to sync."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield lambda: tmp_path_factory.mktemp("redis")
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="mcp-tornado-redis-") as parent:
        yield lambda: Path(tempfile.mkdtemp(dir=parent))


@pytest.fixture
def start_server(program, make_directory):
    """Start a server for one test; arguments are options of redis-server."""
    with contextlib.ExitStack() as stack:

        def start(*options):
            server = RedisServer(program, make_directory(), *options)
            stack.callback(server.kill)
            return server

        yield start


@pytest.fixture(scope="module")
def shared_server(program, make_directory, nothing_is_left_behind):
    server = RedisServer(program, make_directory())
    yield server
    server.kill()


@pytest.fixture(scope="module")
def shared_tls_server(program, make_directory, nothing_is_left_behind):
    try:
        server = TLSRedisServer(program, make_directory())
    except AssertionError as error:
        if not any(words in str(error) for words in ("Failed finding TLS support", "Bad directive")):
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
    """Give a client that has nothing to do with the store."""
    with server.client() as opened:
        yield opened


@pytest.fixture
def make_proxy():
    """Make a proxy before the server on a port."""
    return Proxy


@pytest.fixture
def tls_server(shared_tls_server):
    """Give a server without data that speaks TLS alone."""
    with shared_tls_server.client() as client:
        client.flushall()
    return shared_tls_server


@pytest.fixture
def make_store(server, clock):
    """Make a store on that server, not yet entered; keywords are store options."""
    return lambda **options: redis_store(server.url, options, clock)


@pytest.fixture
async def open_store(make_store, anyio_backend):
    """Enter a store on that server; it is closed after the test."""
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
