"""`serve --workers N`: several processes on one port, and the supervisor that keeps them running."""

from __future__ import annotations

import json
import os
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

from tests.integration.command_line import error_output, install_plugin, run_command
from tests.integration.server_process import Server
from tests.integration.stores import run_store, sqlite_url
from tests.integration.waiting import wait_until
from tests.integration.wire import Wire, answer_text, error_code, open_wire

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
    "Wait for a file."
    Path(f"{file}.started").touch()
    async with asyncio.timeout(60):
        while not Path(file).exists():
            await asyncio.sleep(0.01)
    return os.getpid()

@server.tool()
async def block_until(file: str) -> int:
    "Block the process until a file exists, so that it accepts no connection meanwhile."
    Path(f"{file}.started").touch()
    deadline = time.monotonic() + 60
    while not Path(file).exists():
        assert time.monotonic() < deadline, f"{file} was not created"
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
    """Return a function that starts two workers, on SQLite by default; the fixture kills all remaining processes."""
    servers: list[Server] = []

    def start(store: str = sqlite_url(tmp_path), **settings: object) -> Server:
        settings = {"SERVER__SHUTDOWN_GRACE_SECONDS": 3600, **settings}
        servers.append(Server(f"{app}:server", tmp_path, settings, ["--workers", "2", "--store", store]))
        for number in (1, 2):
            servers[-1].block_until_logged("worker.started", number=number)
        return servers[-1]

    yield start
    for server in servers:
        kill_remaining(app, server)


def kill_remaining(app: Path, server: Server) -> None:
    """Kill what remains of the supervisor and its workers; only they have the path of the app in their command line."""
    for process in psutil.process_iter(["cmdline"]):
        if f"{app}:server" in (process.info["cmdline"] or ()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    server.close()


def worker_pids(server: Server) -> dict[int, int]:
    """Return the process ids of the workers, by their numbers."""
    return {line["number"]: line["pid"] for line in server.log_lines_of("worker.started")}


async def wait_for_file(path: Path) -> None:
    async def exists() -> bool:
        return path.exists()

    await wait_until(exists, f"{path} exists")


@asynccontextmanager
async def connect_to_both(server: Server, directory: Path) -> AsyncGenerator[tuple[Wire, Wire]]:
    """Connect two clients with one session; each keeps a connection to another worker."""
    async with open_wire(server) as first, open_wire(server) as second:
        await first.open_session()
        second.headers = first.headers
        async with call_during(first, "block_until", directory / "blocked"):
            await second.call_tool("pid")
        yield first, second


@asynccontextmanager
async def call_during(wire: Wire, tool: str, file: Path) -> AsyncGenerator[list[httpx.Response]]:
    """Call a tool that runs until the end of the block, when its file is created; then the list holds the response."""
    responses: list[httpx.Response] = []

    async def call() -> None:
        responses.append(await wire.post(wire.tool_request(tool, file=str(file))))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await wait_for_file(Path(f"{file}.started"))
        yield responses
        file.touch()


def response_text(responses: list[httpx.Response]) -> Any:
    """Return the text of the result in the one response, which may be JSON or a stream."""
    (response,) = responses
    assert response.status_code == 200, response.text
    if response.headers["Content-Type"] == "application/json":
        return answer_text(response.json())
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return answer_text(json.loads(data[-1]))


def is_port_free(server: Server) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", urlsplit(server.url).port or 0))
            probe.listen()
        except OSError:
            return False
        return True


async def assert_clean_exit(server: Server) -> None:
    """Check that all processes have ended, logged their end, and freed the port."""
    assert await server.wait_for_exit() == 0
    assert server.log_lines[-1]["event"] == "supervisor.stopped"
    assert len(server.log_lines_of("server.draining")) == len(server.log_lines_of("server.stopped")) == 2
    assert server.log_lines_of("worker.died") == server.log_lines_of("worker.killed") == server.logged_errors() == []
    assert [pid for pid in worker_pids(server).values() if psutil.pid_exists(pid)] == []
    assert is_port_free(server)


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    with run_store(request.param, tmp_path) as (url, _):
        yield url


# ---------------------------------------------------------------- running workers


async def test_a_session_of_one_worker_is_used_and_ended_at_another(
    start: StartWorkers, store_url: str, tmp_path: Path
) -> None:
    server = start(store_url)
    assert server.block_until_logged("supervisor.started")["workers"] == 2
    assert server.block_until_logged("supervisor.started")["pid"] == server.pid
    assert {line["url"] for line in server.log_lines_of("server.started")} == {server.url}
    async with connect_to_both(server, tmp_path) as (first, second):
        assert {int(await wire.call_tool("pid")) for wire in (first, second)} == set(worker_pids(server).values())
        assert (await second.delete()).status_code == 204
        refused = await first.post(first.tool_request("pid"))
        assert (refused.status_code, error_code(refused)) == (404, "SESSION_NOT_FOUND")
    requests = server.log_lines_of("http.request")
    assert len({line["request_id"] for line in requests}) == len(requests)
    server.send_signal()
    await assert_clean_exit(server)


async def test_a_killed_worker_is_replaced_and_its_sessions_continue(start: StartWorkers, tmp_path: Path) -> None:
    server = start()
    async with connect_to_both(server, tmp_path) as (first, second):
        killed = int(await first.call_tool("pid"))
        (number,) = [number for number, pid in worker_pids(server).items() if pid == killed]
        delays: list[float] = []
        for _ in range(3):
            pid = worker_pids(server)[number]
            os.kill(pid, signal.SIGKILL)
            died = await server.wait_until_logged("worker.died", pid=pid)
            assert (died["level"], died["number"], died["signal"]) == ("warning", number, signal.SIGKILL)
            delays.append(died["restart_in_seconds"])
            assert await second.call_tool("pid") == str(worker_pids(server)[3 - number])
            await wait_for_starts(server, number, len(delays) + 1)
        assert delays == [0.1, 0.2, 0.4]
        async with open_wire(server) as third:
            third.headers = first.headers
            async with call_during(second, "block_until", tmp_path / "again"):
                assert await third.call_tool("pid") == str(worker_pids(server)[number])
    server.send_signal()
    assert await server.wait_for_exit() == 0
    assert len(server.log_lines_of("worker.died")) == 3


async def wait_for_starts(server: Server, number: int, times: int) -> None:
    """Wait until a worker has started this many times."""

    async def has_started() -> bool:
        return [line["number"] for line in server.log_lines_of("worker.started")].count(number) == times

    await wait_until(has_started, f"worker {number} has started {times} times")


async def test_a_worker_that_cannot_start_again_is_retried(start: StartWorkers, app: Path, tmp_path: Path) -> None:
    server = start()
    app.write_text("import nonesuch_dependency")
    os.kill(worker_pids(server)[1], signal.SIGTERM)
    died = await server.wait_until_logged("worker.died", pid=worker_pids(server)[1])
    assert died["exit_code"] == 0
    for delay in (0.2, 0.4):
        died = await server.wait_until_logged("worker.died", number=1, restart_in_seconds=delay)
        assert died["exit_code"] == 1
        assert "nonesuch_dependency" in died["reason"]
    async with open_wire(server) as wire:
        await wire.open_session()
        assert await wire.call_tool("pid") == str(worker_pids(server)[2])
        app.write_text(APP)
        await wait_for_starts(server, 1, 2)
        assert worker_pids(server)[1] not in (died["pid"], worker_pids(server)[2])
    server.send_signal()
    assert await server.wait_for_exit() == 0
    assert server.logged_errors() == []


# ---------------------------------------------------------------- the end of workers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_all_workers_drain_at_a_signal(start: StartWorkers, tmp_path: Path, number: int) -> None:
    server = start()
    async with connect_to_both(server, tmp_path) as (first, second):
        async with (
            call_during(first, "wait_for", tmp_path / "one") as one,
            call_during(second, "wait_for", tmp_path / "two") as two,
        ):
            server.send_signal(number)
            await wait_for_drain(server)
            async with open_wire(server) as probe:
                ready = await probe.http.get(f"{server.origin}/readyz")
                assert (ready.status_code, error_code(ready)) == (503, "SERVER_DRAINING")
        assert {int(response_text(one)), int(response_text(two))} == set(worker_pids(server).values())
    await assert_clean_exit(server)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_every_process_counts_as_one_signal(start: StartWorkers, tmp_path: Path, number: int) -> None:
    """Ctrl-C in a terminal reaches all processes, and so does the signal of a service manager."""
    server = start()
    async with connect_to_both(server, tmp_path) as (first, second):
        async with (
            call_during(first, "wait_for", tmp_path / "one") as one,
            call_during(second, "wait_for", tmp_path / "two") as two,
        ):
            for pid in (*worker_pids(server).values(), server.pid):
                os.kill(pid, number)
            await wait_for_drain(server)
            for pid in worker_pids(server).values():
                os.kill(pid, number)
        assert {int(response_text(one)), int(response_text(two))} == set(worker_pids(server).values())
    await assert_clean_exit(server)


async def wait_for_drain(server: Server) -> None:
    for pid in worker_pids(server).values():
        await server.wait_until_logged("server.draining", pid=pid)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_all_workers_at_once(start: StartWorkers, tmp_path: Path, second: int) -> None:
    server = start()
    async with open_wire(server) as wire, anyio.create_task_group() as tasks:
        await wire.open_session()

        async def call() -> None:
            with pytest.raises(httpx.RemoteProtocolError):
                await wire.call_tool("wait_for", file=str(tmp_path / "never"))

        tasks.start_soon(call)
        await wait_for_file(tmp_path / "never.started")
        server.send_signal()
        await server.wait_until_logged("server.draining")
        server.send_signal(second)
        assert await server.wait_for_exit() == 128 + second
    assert server.log_lines_of("supervisor.stopped") == []
    assert [pid for pid in worker_pids(server).values() if psutil.pid_exists(pid)] == []
    assert is_port_free(server)


async def test_workers_without_a_supervisor_drain_and_free_the_port(start: StartWorkers, tmp_path: Path) -> None:
    server = start()
    async with connect_to_both(server, tmp_path) as (first, second):
        async with (
            call_during(first, "wait_for", tmp_path / "one") as one,
            call_during(second, "wait_for", tmp_path / "two") as two,
        ):
            server.send_signal(signal.SIGKILL)
            for pid in worker_pids(server).values():
                await server.wait_until_logged("supervisor.lost", pid=pid)

            async def has_freed_port() -> bool:
                return is_port_free(server)

            await wait_until(has_freed_port, "the port is free")
        assert {int(response_text(one)), int(response_text(two))} == set(worker_pids(server).values())
    assert (
        await server.wait_for_exit() == -signal.SIGKILL
    )  # this includes the end of the log, so all workers have ended
    assert len(server.log_lines_of("server.stopped")) == 2


async def test_a_signal_during_the_start_ends_all_workers(start: StartWorkers, app: Path, tmp_path: Path) -> None:
    app.write_text(f"import time; open({str(tmp_path / 'importing')!r}, 'w').close(); time.sleep(600)")
    server = Server(f"{app}:server", tmp_path, {}, ["--workers", "2", "--store", "sqlite:///sessions.db"])
    try:
        await wait_for_file(tmp_path / "importing")
        server.send_signal()
        assert await server.wait_for_exit() == 0
        assert server.log_lines_of("worker.died") == []
    finally:
        kill_remaining(app, server)


# ---------------------------------------------------------------- failures at the start


REFUSED = [
    ("import os; os._exit(3)", "sqlite:///sessions.db", "ended with exit code 3"),
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
def test_an_error_of_the_start_is_reported_once(app: Path, tmp_path: Path, text: str, store: str, reason: str) -> None:
    app.write_text(text)
    install_plugin(tmp_path, "eventless-1", "eventless", "eventless")
    (tmp_path / "eventless.py").write_text(EVENTLESS)
    errors = error_output(run_command(tmp_path, "serve", f"{app}:server", "--workers", "3", "--store", store))
    (error,) = [line for line in errors.splitlines() if reason in line]
    assert error.startswith("Error: ")
    assert "worker.died" not in errors


@pytest.mark.parametrize(
    ("code", "reason"),
    [("import nonesuch_dependency", "nonesuch_dependency"), ("raise SystemExit(3)", "SystemExit: 3")],
)
def test_a_fault_in_the_code_of_the_user_is_reported_once(app: Path, tmp_path: Path, code: str, reason: str) -> None:
    app.write_text(code)
    completed = run_command(tmp_path, "serve", f"{app}:server", "--workers", "3", "--store", "sqlite:///sessions.db")
    assert completed.returncode == 1
    (error,) = [line for line in completed.stderr.splitlines() if line.startswith("Error: ")]
    assert reason in error
    assert completed.stderr.count("Traceback") == 1
    assert "server.started" not in completed.stderr
    assert "worker.died" not in completed.stderr


def test_a_port_in_use_is_reported(app: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        arguments = ("--workers", "2", "--port", port, "--store", "sqlite:///sessions.db")
        assert f"127.0.0.1:{port}" in error_output(run_command(tmp_path, "serve", f"{app}:server", *arguments))
