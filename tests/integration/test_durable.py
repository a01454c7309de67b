"""A session outlives its process, on each store that is durable."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client.client import Client

from mcp_tornado.sessions import system_clock
from mcp_tornado.stores.plugins import open_store
from tests.conftest import DID_NOT_RUN
from tests.integration.conftest import DEADLINE, Server, Wire, wire_to

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(port: int, *command: str | Path) -> Generator[None]:
    """Run a server, once it listens, and end it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + DEADLINE
        while True:
            assert process.poll() is None, f"{command[0]} ended"
            assert time.monotonic() < deadline, f"{command[0]} never listened"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["sqlite", "redis", "mongodb"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """The URL of a store that outlives our process."""
    port = free_port()
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'sessions.db'}"
    elif request.param == "redis":
        if shutil.which("redis-server") is None:
            pytest.skip(f"{DID_NOT_RUN}redis-server is not installed (Debian: apt-get install redis-server)")
        with running(port, "redis-server", "--port", str(port), "--dir", tmp_path, "--save", "", "--appendonly", "yes"):
            yield f"redis://127.0.0.1:{port}/0"
    else:
        files = ("--log-file", tmp_path / "log", "--pid-file", tmp_path / "pid")
        server = Path(sys.executable).with_name("nx-27017")
        with running(port, server, "--data-dir", tmp_path / "data", "-p", str(port), *files):
            yield f"mongodb://127.0.0.1:{port}/test"


@pytest.fixture
def serve(store_url: str, tmp_path: Path) -> Generator[Callable[..., Server]]:
    """Start a server on the store, always at the same address."""
    port = str(free_port())
    servers: list[Server] = []

    def start(app: str = "lowlevel") -> Server:
        servers.append(Server(app, tmp_path, {}, ["--port", port, "--store", store_url]))
        assert servers[-1].url
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def text(result: Any) -> str:
    assert not result.is_error, result
    return result.content[0].text


async def test_a_client_of_the_sdk_goes_on_with_its_session_after_the_process_was_killed(
    serve: Callable[..., Server], store_url: str
) -> None:
    server = serve()
    with anyio.fail_after(3 * DEADLINE):
        async with (
            Client(server.url, mode="legacy", read_timeout_seconds=DEADLINE) as client,
            open_store(store_url, {}, system_clock) as store,
        ):
            await client.set_logging_level("warning")  # pyright: ignore
            await client.subscribe_resource("memo://a")  # pyright: ignore
            await client.subscribe_resource("memo://b")  # pyright: ignore
            await client.unsubscribe_resource("memo://a")  # pyright: ignore
            (session,) = await store.page(None, 10)
            stored = await store.update(session.key, {"state": {"cart": ["tea", "ä"]}}, session.revision)

            server.kill()
            server = serve()

            assert text(await client.call_tool("level")) == "warning"
            assert text(await client.call_tool("subscriptions")) == "memo://b"
            assert await store.page(None, 10) == [stored]
            assert not server.events("session.created")
    await server.line("session.terminated")
    server.stop()


async def test_what_was_sent_before_the_kill_is_received_after_it(serve: Callable[..., Server], store_url: str) -> None:
    server = serve("server")
    async with wire_to(server) as wire:
        await wire.open()
        call = wire.call("logs", id="before", number=3, meta={"progressToken": "p"})
        assert (await wire.post(call, "/send")).status_code == 202
        before = await received(wire, 4)
        server.kill()
        server = serve("server")
        assert await received(wire, 4) == before
        assert (await wire.post(wire.call("echo", id="after", text="again"), "/send")).status_code == 202
        events = await received(wire, 5)
        assert events[:4] == before
        assert events[4]["message"]["id"] == "after"
        assert (await wire.delete()).status_code == 204
    server.stop()


async def received(wire: Wire, count: int) -> list[dict[str, Any]]:
    """Return all that the server has for the session, once it is so much."""
    events: list[dict[str, Any]] = []
    after = ""
    with anyio.fail_after(DEADLINE):
        while len(events) < count:
            answer = await wire.http.get(f"{wire.server.url}/receive?wait=10{after}", headers=wire.headers)
            assert answer.status_code == 200, answer.text
            events += answer.json()["events"]
            after = f"&after={answer.json()['after']}"
    return events
