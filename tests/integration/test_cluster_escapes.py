"""Handlers that let out an exception that is no `Exception`, in real processes: every process lives on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest

from tests.integration.cluster import Cluster, run_cluster
from tests.integration.server_process import app_name
from tests.integration.wire import Wire, has_response, open_wire

pytestmark = pytest.mark.anyio

INTERNAL_ERROR = {"code": -32603, "message": "Internal server error", "data": {"code": "INTERNAL_ERROR"}}
WITH_TOKEN = {"progressToken": "t"}


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with run_cluster("sqlite", size=2, app=app_name("escapes"), expected_errors=["handler.failed"]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def fastmcp_cluster() -> Generator[Cluster]:
    app = app_name("escapes", "fast")
    with run_cluster("sqlite", size=1, app=app, expected_errors=["handler.failed"]) as cluster:
        yield cluster


@pytest.fixture
async def wire(cluster: Cluster, anyio_backend: str) -> AsyncGenerator[Wire]:
    async with open_wire(cluster.servers[0]) as wire:
        yield await wire.open_session()


@pytest.mark.parametrize("how", ["exit", "interrupt", "cancelled", "panic", "task-group", "task"])
async def test_stream_of_an_escape_resumes_at_another_process(cluster: Cluster, wire: Wire, how: str) -> None:
    call = wire.tool_request("escape", meta=WITH_TOKEN, how=how, steps=2)
    async with wire.post_stream(call) as events:
        frames = await events.read_to_end()
    answer = frames[-1].message
    assert answer == {"jsonrpc": "2.0", "id": call["id"], "error": INTERNAL_ERROR}
    assert frames[0].id is not None
    async with wire.at(cluster.servers[1]).get_stream(frames[0].id) as events:
        resumed = await events.read_to_end()
    assert resumed[-1].message == answer
    for server in cluster.servers:
        assert await wire.at(server).call_tool("echo", text="still here") == "still here"
    line = await cluster.servers[0].wait_until_logged("handler.failed", tool="escape")
    assert line["level"] == "error"
    assert line["session"]


@pytest.mark.parametrize("how", ["exit", "interrupt", "cancelled", "panic"])
async def test_escape_of_a_plain_function_is_received_at_another_process(
    cluster: Cluster, wire: Wire, how: str
) -> None:
    call = wire.tool_request("escape_thread", how=how)
    assert (await wire.post(call, "/send")).status_code == 202
    received, _ = await wire.at(cluster.servers[1]).receive_until(has_response)
    assert received[-1]["message"] == {"jsonrpc": "2.0", "id": call["id"], "error": INTERNAL_ERROR}
    await cluster.servers[0].wait_until_logged("handler.failed", tool="escape_thread")


@pytest.mark.parametrize("tool", ["let_out", "escape_thread"])
@pytest.mark.parametrize("how", ["exit", "interrupt", "cancelled", "panic"])
async def test_fastmcp_server_lives_on(fastmcp_cluster: Cluster, tool: str, how: str) -> None:
    async with open_wire(fastmcp_cluster.servers[0]) as wire:
        await wire.open_session()
        answer = await wire.send_request(wire.tool_request(tool, how=how))
        assert answer["error"] == INTERNAL_ERROR
        assert await wire.call_tool("echo", text="still here") == "still here"
    await fastmcp_cluster.servers[0].wait_until_logged("handler.failed", tool=tool)
