"""A session outlives its process, on each durable store."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import anyio
import pytest
from mcp.client.client import Client

from mcp_tornado.sessions import system_clock
from mcp_tornado.stores.plugins import open_store
from tests.chaos.processes import free_port
from tests.integration.sdk import result_text
from tests.integration.server_process import EVERYTHING, LOWLEVEL, Server
from tests.integration.stores import run_store
from tests.integration.waiting import DEADLINE_SECONDS
from tests.integration.wire import open_wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest.fixture(params=["sqlite", "redis", "mongodb"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """The URL of a durable store."""
    with run_store(request.param, tmp_path) as (url, _):
        yield url


@pytest.fixture
def serve(store_url: str, tmp_path: Path) -> Generator[Callable[..., Server]]:
    """Return a function that starts a server on the store, always on the same port."""
    port = str(free_port())
    servers: list[Server] = []

    def start(app: str = LOWLEVEL) -> Server:
        servers.append(Server(app, tmp_path, {}, ["--port", port, "--store", store_url]))
        assert servers[-1].url
        return servers[-1]

    yield start
    for server in servers:
        server.close()


async def test_a_client_of_the_sdk_continues_its_session_after_the_process_was_killed(
    serve: Callable[..., Server], store_url: str
) -> None:
    server = serve()
    with anyio.fail_after(3 * DEADLINE_SECONDS):
        async with (
            Client(server.url, mode="legacy", read_timeout_seconds=DEADLINE_SECONDS) as client,
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

            assert result_text(await client.call_tool("level")) == "warning"
            assert result_text(await client.call_tool("subscriptions")) == "memo://b"
            assert await store.page(None, 10) == [stored]
            assert not server.log_lines_of("session.created")
    await server.wait_until_logged("session.terminated")
    server.stop()


async def test_answers_from_before_a_kill_are_received_after_it(serve: Callable[..., Server], store_url: str) -> None:
    server = serve(EVERYTHING)
    async with open_wire(server) as wire:
        await wire.open_session()
        call = wire.tool_request("logs", id="before", number=3, meta={"progressToken": "p"})
        assert (await wire.post(call, "/send")).status_code == 202
        before, _ = await wire.receive_until(lambda events: len(events) >= 4)
        server.kill()
        server = serve(EVERYTHING)
        after, _ = await wire.receive_until(lambda events: len(events) >= 4)
        assert after == before
        assert (await wire.post(wire.tool_request("echo", id="after", text="again"), "/send")).status_code == 202
        events, _ = await wire.receive_until(lambda events: len(events) >= 5)
        assert events[:4] == before
        assert events[4]["message"]["id"] == "after"
        assert (await wire.delete()).status_code == 204
    server.stop()
