"""`serve --workers N`: several processes on one port, and the supervisor that keeps them running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import psutil
import pytest

from tests.conftest import DID_NOT_RUN
from tests.integration.conftest import Server, Wire, error_code, text_of, until, wire_to
from tests.integration.test_command_line import install, run, said
from tests.integration.test_durable import free_port, running

pytestmark = pytest.mark.anyio

APP = """
import asyncio, os, time
from pathlib import Path
from mcp.server.mcpserver import MCPServer

server = MCPServer("workers")

@server.tool()
async def pid() -> int:
    return os.getpid()

@server.tool()
async def wait_for(file: str) -> int:
    Path(f"{file}.started").touch()
    while not Path(file).exists():
        await asyncio.sleep(0.01)
    return os.getpid()

@server.tool()
async def hold(file: str) -> int:
    "Let this process do nothing else, not even take a connection."
    Path(f"{file}.started").touch()
    while not Path(file).exists():
        time.sleep(0.01)
    return os.getpid()
"""

StartWorkers = Callable[..., Server]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "served.py"
    path.write_text(APP)
    return path


@pytest.fixture
def start(app: Path, tmp_path: Path) -> Generator[StartWorkers]:
    """Start two workers, on SQLite unless another store is named; all that is left of them is killed."""
    servers: list[Server] = []

    def start(store: str = f"sqlite:///{tmp_path / 'sessions.db'}", **settings: object) -> Server:
        settings = {"SERVER__SHUTDOWN_GRACE_SECONDS": 3600, **settings}
        servers.append(Server(f"{app}:server", tmp_path, settings, ["--workers", "2", "--store", store]))
        for number in (1, 2):
            servers[-1].wait_for_line("worker.started", number=number)
        return servers[-1]

    yield start
    for server in servers:
        leave_nothing_of(app, server)


def leave_nothing_of(app: Path, server: Server) -> None:
    """Kill what is left of the supervisor and its workers: all have the same command line, and nobody else has."""
    for process in psutil.process_iter(["cmdline"]):
        if f"{app}:server" in (process.info["cmdline"] or ()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    server.close()


def workers(server: Server) -> dict[int, int]:
    """Return the pids of the workers by their numbers."""
    return {line["number"]: line["pid"] for line in server.events("worker.started")}


async def exists(path: Path) -> None:
    async def there() -> bool:
        return path.exists()

    await until(there)


@asynccontextmanager
async def both(server: Server, directory: Path) -> AsyncGenerator[tuple[Wire, Wire]]:
    """Give two clients on one session, each with a kept connection to a worker of its own."""
    async with wire_to(server) as first, wire_to(server) as second:
        await first.open()
        second.headers = first.headers
        async with calling(first, "hold", directory / "hold"):
            await second.tool("pid")
        yield first, second


@asynccontextmanager
async def calling(wire: Wire, tool: str, file: Path) -> AsyncGenerator[list[httpx.Response]]:
    """Call a tool that runs until a file is there, which is made in the end; the list holds the answer then."""
    responses: list[httpx.Response] = []

    async def call() -> None:
        responses.append(await wire.post(wire.call(tool, file=str(file))))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await exists(Path(f"{file}.started"))
        yield responses
        file.touch()


def answer(responses: list[httpx.Response]) -> Any:
    """Return the text in the one answer, be it JSON or a stream."""
    (response,) = responses
    assert response.status_code == 200, response.text
    if response.headers["Content-Type"] == "application/json":
        return text_of(response.json())
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return text_of(json.loads(data[-1]))


def can_be_listened_on(server: Server) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", urlsplit(server.url).port or 0))
            probe.listen()
        except OSError:
            return False
        return True


async def ended_well(server: Server) -> None:
    """Check that all have ended, said so, and left the port."""
    assert await server.exit_code() == 0
    assert server.lines[-1]["event"] == "supervisor.stopped"
    assert len(server.events("server.draining")) == len(server.events("server.stopped")) == 2
    assert server.events("worker.died") == server.events("worker.killed") == server.failures() == []
    assert [pid for pid in workers(server).values() if psutil.pid_exists(pid)] == []
    assert can_be_listened_on(server)


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'sessions.db'}"
        return
    if shutil.which("redis-server") is None:
        pytest.skip(f"{DID_NOT_RUN}redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    with running(port, "redis-server", "--port", str(port), "--dir", tmp_path, "--save", ""):
        yield f"redis://127.0.0.1:{port}/0"


# ---------------------------------------------------------------- while they run


async def test_a_session_made_at_one_worker_is_used_and_ended_at_another(
    start: StartWorkers, store_url: str, tmp_path: Path
) -> None:
    server = start(store_url)
    assert server.wait_for_line("supervisor.started")["workers"] == 2
    assert server.wait_for_line("supervisor.started")["pid"] == server.pid
    assert {line["url"] for line in server.events("server.started")} == {server.url}
    async with both(server, tmp_path) as (first, second):
        assert {int(await wire.tool("pid")) for wire in (first, second)} == set(workers(server).values())
        assert (await second.delete()).status_code == 204
        refused = await first.post(first.call("pid"))
        assert (refused.status_code, error_code(refused)) == (404, "SESSION_NOT_FOUND")
    requests = server.events("http.request")
    assert len({line["request_id"] for line in requests}) == len(requests)
    server.signal()
    await ended_well(server)


async def test_a_worker_that_is_killed_is_replaced_and_its_sessions_go_on(start: StartWorkers, tmp_path: Path) -> None:
    server = start()
    async with both(server, tmp_path) as (first, second):
        killed = int(await first.tool("pid"))
        (number,) = [number for number, pid in workers(server).items() if pid == killed]
        delays: list[float] = []
        for _ in range(3):
            pid = workers(server)[number]
            os.kill(pid, signal.SIGKILL)
            died = await server.line("worker.died", pid=pid)
            assert (died["level"], died["number"], died["signal"]) == ("warning", number, signal.SIGKILL)
            delays.append(died["restart_in_seconds"])
            assert await second.tool("pid") == str(workers(server)[3 - number])
            await started(server, number, len(delays) + 1)
        assert delays == [0.1, 0.2, 0.4]
        async with wire_to(server) as third:
            third.headers = first.headers
            async with calling(second, "hold", tmp_path / "again"):
                assert await third.tool("pid") == str(workers(server)[number])
    server.signal()
    assert await server.exit_code() == 0
    assert len(server.events("worker.died")) == 3


async def started(server: Server, number: int, times: int) -> None:
    """Wait until a worker has started for so many times."""

    async def so_often() -> bool:
        return [line["number"] for line in server.events("worker.started")].count(number) == times

    await until(so_often)


async def test_a_worker_that_cannot_be_served_later_is_tried_again(
    start: StartWorkers, app: Path, tmp_path: Path
) -> None:
    server = start()
    app.write_text("import nonesuch_dependency")
    os.kill(workers(server)[1], signal.SIGTERM)
    died = await server.line("worker.died", pid=workers(server)[1])
    assert died["exit_code"] == 0
    for delay in (0.2, 0.4):
        died = await server.line("worker.died", number=1, restart_in_seconds=delay)
        assert died["exit_code"] == 1
        assert "nonesuch_dependency" in died["reason"]
    async with wire_to(server) as wire:
        await wire.open()
        assert await wire.tool("pid") == str(workers(server)[2])
        app.write_text(APP)
        await started(server, 1, 2)
        assert workers(server)[1] not in (died["pid"], workers(server)[2])
    server.signal()
    assert await server.exit_code() == 0
    assert server.failures() == []


# ---------------------------------------------------------------- when they end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_all_drain_at_a_signal(start: StartWorkers, tmp_path: Path, number: int) -> None:
    server = start()
    async with both(server, tmp_path) as (first, second):
        async with (
            calling(first, "wait_for", tmp_path / "one") as one,
            calling(second, "wait_for", tmp_path / "two") as two,
        ):
            server.signal(number)
            await drain_begun(server)
            async with wire_to(server) as probe:
                ready = await probe.http.get(f"{server.origin}/readyz")
                assert (ready.status_code, error_code(ready)) == (503, "SERVER_DRAINING")
        assert {int(answer(one)), int(answer(two))} == set(workers(server).values())
    await ended_well(server)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_every_process_is_one_signal(start: StartWorkers, tmp_path: Path, number: int) -> None:
    """Ctrl-C in a terminal reaches them all, and so does what a service manager sends."""
    server = start()
    async with both(server, tmp_path) as (first, second):
        async with (
            calling(first, "wait_for", tmp_path / "one") as one,
            calling(second, "wait_for", tmp_path / "two") as two,
        ):
            for pid in (*workers(server).values(), server.pid):
                os.kill(pid, number)
            await drain_begun(server)
            for pid in workers(server).values():
                os.kill(pid, number)
        assert {int(answer(one)), int(answer(two))} == set(workers(server).values())
    await ended_well(server)


async def drain_begun(server: Server) -> None:
    for pid in workers(server).values():
        await server.line("server.draining", pid=pid)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_all_at_once(start: StartWorkers, tmp_path: Path, second: int) -> None:
    server = start()
    async with wire_to(server) as wire, anyio.create_task_group() as tasks:
        await wire.open()

        async def call() -> None:
            with pytest.raises(httpx.RemoteProtocolError):
                await wire.tool("wait_for", file=str(tmp_path / "never"))

        tasks.start_soon(call)
        await exists(tmp_path / "never.started")
        server.signal()
        await server.line("server.draining")
        server.signal(second)
        assert await server.exit_code() == 128 + second
    assert server.events("supervisor.stopped") == []
    assert [pid for pid in workers(server).values() if psutil.pid_exists(pid)] == []
    assert can_be_listened_on(server)


async def test_without_their_supervisor_the_workers_drain_and_leave_the_port(
    start: StartWorkers, tmp_path: Path
) -> None:
    server = start()
    async with both(server, tmp_path) as (first, second):
        async with (
            calling(first, "wait_for", tmp_path / "one") as one,
            calling(second, "wait_for", tmp_path / "two") as two,
        ):
            server.signal(signal.SIGKILL)
            for pid in workers(server).values():
                await server.line("supervisor.lost", pid=pid)

            async def port_is_free() -> bool:
                return can_be_listened_on(server)

            await until(port_is_free)
        assert {int(answer(one)), int(answer(two))} == set(workers(server).values())
    assert await server.exit_code() == -signal.SIGKILL  # and the log is at its end: nobody is left who could write
    assert len(server.events("server.stopped")) == 2


async def test_a_signal_while_they_start(start: StartWorkers, app: Path, tmp_path: Path) -> None:
    app.write_text(f"import time; open({str(tmp_path / 'importing')!r}, 'w').close(); time.sleep(600)")
    server = Server(f"{app}:server", tmp_path, {}, ["--workers", "2", "--store", "sqlite:///sessions.db"])
    try:
        await exists(tmp_path / "importing")
        server.signal()
        assert await server.exit_code() == 0
        assert server.events("worker.died") == []
    finally:
        leave_nothing_of(app, server)


# ---------------------------------------------------------------- what cannot be served


REFUSED = [
    ("import nonesuch_dependency", "sqlite:///sessions.db", "nonesuch_dependency"),
    ("raise SystemExit(3)", "sqlite:///sessions.db", "ended with exit code 3"),
    ("server = 17", "sqlite:///sessions.db", "MCPServer"),
    (APP, "sqlite:////nonesuch/directory/sessions.db", "/nonesuch/directory"),
    (APP, "redis://127.0.0.1:1/0", "127.0.0.1:1"),
    (APP, "memory://", "keeps the sessions in one process"),
    (APP, "eventless://", "keeps only sessions"),
]

EVENTLESS = """
from mcp_tornado import stores

class Eventless(stores.SessionStore):
    shared = True
    __aenter__ = __aexit__ = create = get = touch = update = delete = sweep = count = page = ping = None

def factory(url, options, clock):
    return Eventless()
"""


@pytest.mark.parametrize(("text", "store", "reason"), REFUSED, ids=[reason for _, _, reason in REFUSED])
def test_what_cannot_be_served_is_said_once(app: Path, tmp_path: Path, text: str, store: str, reason: str) -> None:
    app.write_text(text)
    install(tmp_path, "eventless-1", "eventless", "eventless")
    (tmp_path / "eventless.py").write_text(EVENTLESS)
    errors = said(run(tmp_path, "serve", f"{app}:server", "--workers", "3", "--store", store))
    (error,) = [line for line in errors.splitlines() if reason in line]
    assert error.startswith("Error: ")
    assert "worker.died" not in errors


def test_a_port_that_is_taken(app: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = ("--workers", "2", "--port", port, "--store", "sqlite:///sessions.db")
        assert f"127.0.0.1:{port}" in said(run(tmp_path, "serve", f"{app}:server", *arguments))
