"""Several server processes on one store, and a proxy before them that sends each request to the next one."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import psutil
import pytest
from mcp.client.client import Client

from mcp_tornado.sessions import EventId
from tests.chaos.processes import free_port
from tests.chaos.proxy import HOST, Proxy
from tests.conftest import DID_NOT_RUN
from tests.integration.conftest import DEADLINE, Frame, Server, Wire, until, wire_to

_IN_MEMORY: Final = Path("/dev/shm")
"""Where data is kept if that can be had: a busy disk takes seconds to sync."""
_USUAL: Final = {
    "LOG__LEVEL": "INFO",
    "SERVER__SHUTDOWN_GRACE_SECONDS": 20,
    "EVENTS__RETRY_MILLISECONDS": 10,
    "EVENTS__STREAM_AFTER_SECONDS": 0.1,
}


# ---------------------------------------------------------------- the store


class StoreServer:
    """The server of a store, which can be killed, stopped as it stands, and started again on its data."""

    def __init__(self, port: int, command: Sequence[str | Path]) -> None:
        self._port = port
        self._command = command
        self._process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start it; returns once it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_until(self._listens, f"{self._command[0]} listening")

    def _listens(self) -> bool:
        assert self._process.poll() is None, f"{self._command[0]} has ended"
        with suppress(OSError), socket.create_connection((HOST, self._port), timeout=1):
            return True
        return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @contextmanager
    def killed(self) -> Generator[None]:
        """Kill it, and start it again with its data."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Generator[None]:
        """Stop it as it stands: it accepts connections still, and answers nothing."""
        freeze(self._process.pid)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def store_of(kind: str, directory: Path) -> Generator[tuple[str, StoreServer | None]]:
    """Give a new store: its URL, and its server if it has one."""
    if kind == "sqlite":
        yield f"sqlite:///{directory / 'sessions.db'}", None
        return
    port = free_port()
    if kind == "redis":
        if shutil.which("redis-server") is None:
            pytest.skip(f"{DID_NOT_RUN}redis-server is not installed (Debian: apt-get install redis-server)")
        where = ("--bind", HOST, "--port", str(port), "--dir", directory)
        durable = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
        url, server = f"redis://{HOST}:{port}", StoreServer(port, ["redis-server", *where, *durable])
    else:
        files = ("--data-dir", directory / "data", "--log-file", directory / "log", "--pid-file", directory / "pid")
        program = Path(sys.executable).with_name("nx-27017")
        url, server = f"mongodb://{HOST}:{port}/test", StoreServer(port, [program, "-p", str(port), *files])
    try:
        yield url, server
    finally:
        server.kill()


# ---------------------------------------------------------------- the processes


class Cluster:
    """Server processes on one store, each on a port of its own.

    Args:
        servers: The processes.
        store_url: The store that they share.
        store_server: Its server, where it has one.
    """

    def __init__(self, servers: Sequence[Server], store_url: str, store_server: StoreServer | None) -> None:
        self.servers = servers
        self.store_url = store_url
        self.store_server = store_server
        self._killed: set[Server] = set()

    @property
    def living(self) -> list[Server]:
        """Return those that were not killed."""
        return [server for server in self.servers if server not in self._killed]

    def kill(self, server: Server) -> None:
        """End a process as a power cut does."""
        self._killed.add(server)
        server.kill()

    async def open_gate(self, wire: Wire, gate: str) -> None:
        """Open a gate in every process."""
        for server in self.living:
            mine = await wire.at(server).fork().open()
            await mine.tool("open_gate", gate=gate)

    def stop(self, expected: Sequence[str] = ()) -> None:
        """Stop the processes as an operator does; they must have failed at nothing but what is expected."""
        for server in self.living:
            with suppress(ProcessLookupError):
                server.signal()
        for server in self.living:
            assert server.wait() == 0, "".join(server.texts[-50:])
            failures = [line for line in server.failures() if line["event"] not in expected]
            assert failures == [], failures

    def close(self) -> None:
        """Leave nothing behind."""
        for server in self.servers:
            server.close()


@contextmanager
def cluster_on(
    kind: str, *, size: int = 3, app: str = "server", expected: Sequence[str] = (), **settings: object
) -> Generator[Cluster]:
    """Run server processes on a new store.

    Args:
        kind: The store.
        size: How many processes.
        app: What they serve, an attribute of everything.py.
        expected: The events of the log at the level of errors that the test causes.
        settings: Variables, without their common prefix.
    """
    with tempfile.TemporaryDirectory(prefix="cluster-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as name:
        directory = Path(name)
        with store_of(kind, directory) as (url, store_server):
            usual = {**_USUAL, "SESSIONS__STORE": url}
            # Not the ports that the system picks: while a process is away, somebody else might be given its port.
            ports: set[int] = set()
            while len(ports) < size:
                ports.add(free_port())
            servers = [Server(app, directory, {**usual, **settings}, ["--port", str(port)]) for port in ports]
            cluster = Cluster(servers, url, store_server)
            try:
                for server in servers:
                    assert server.url
                yield cluster
                cluster.stop(expected)
            finally:
                cluster.close()


def freeze(pid: int) -> None:
    """Stop a process as it stands (SIGSTOP); returns once it stands."""
    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)
    _wait_until(lambda: process.status() == psutil.STATUS_STOPPED, f"process {pid} standing")


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        time.sleep(0.02)


# ---------------------------------------------------------------- the proxy


class Front:
    """The cluster as its clients see it: one address."""

    def __init__(self, cluster: Cluster, proxy: Proxy) -> None:
        self.servers = cluster.servers
        self._proxy = proxy

    @property
    def url(self) -> str:
        return self._proxy.url

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/mcp")

    async def server_of(self, message: Any) -> Server:
        """Return the process that got a message, or a batch, once one has it."""

        async def takers() -> list[Server]:
            processes = [each.process for each in self._proxy.records if each.message == message]
            return [self.servers[process] for process in processes if process is not None]

        found: list[Server] = await until(takers)
        return found[-1]

    def assert_spread(self) -> None:
        """Check that no session's requests all went to one process; where nobody had a session, that all did not."""
        taken: defaultdict[str, set[int]] = defaultdict(set)
        without: set[int] = set()
        for each in self._proxy.records:
            session = each.session or each.new_session
            if each.process is not None:
                (without if session is None else taken[session]).add(each.process)
        taken = taken or {"none": without}
        assert all(len(processes) > 1 for processes in taken.values()), taken


@asynccontextmanager
async def front_of(cluster: Cluster) -> AsyncGenerator[Front]:
    """Run a proxy before a cluster; in the end it must have spread the requests of each session."""
    async with Proxy([int(server.url.rpartition(":")[2].partition("/")[0]) for server in cluster.servers]) as proxy:
        front = Front(cluster, proxy)
        yield front
        front.assert_spread()


@asynccontextmanager
async def wire_through(cluster: Cluster) -> AsyncGenerator[tuple[Front, Wire]]:
    """Give a client on the bare wire, without a session, that speaks through a proxy."""
    async with front_of(cluster) as front, wire_to(front) as wire:
        yield front, wire


@asynccontextmanager
async def client_through(front: Front, **callbacks: Any) -> AsyncGenerator[Client]:
    """Give a client of the SDK that speaks through a proxy."""
    with anyio.fail_after(2 * DEADLINE):
        async with Client(front.url, mode="legacy", read_timeout_seconds=DEADLINE, **callbacks) as client:
            yield client


# ---------------------------------------------------------------- answers and events


async def answer_to(wire: Wire, message: Any) -> Any:
    """Return the answer to a request, whether it comes as JSON or, on a busy machine, as a stream."""
    async with wire.stream(message) as events:
        if events.response.headers["Content-Type"] == "application/json":
            return json.loads(await events.response.aread())
        return (await events.rest())[-1].message


def process_of(event: Frame | str | None) -> str:
    """Return the name of the process that wrote the stream of an event, or of an event's id."""
    event_id = event if isinstance(event, str) else (event.id if event is not None else None)
    parsed = EventId.parse(event_id or "")
    found = re.match("(?:post|send)-([^-]+)-", parsed.stream) if parsed is not None else None
    assert found is not None, f"the stream of {event} names no process"
    return found[1]


async def read(events: Any, number: int) -> list[Frame]:
    """Return the next events of a stream; there must be so many."""
    frames = [await events.next() for _ in range(number)]
    assert None not in frames, f"the stream ended: {frames}"
    return frames
