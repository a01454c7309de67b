"""A FastMCP server as it is served; what it keeps in state is in test_state.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import STATELESS, Server, StartServer, Wire, text_of, wire_to

pytestmark = pytest.mark.anyio

FAST = f"{Path(__file__).with_name('stateful.py')}:fast"
SETTINGS = {"SERVER__JSON_RESPONSES": "true"}


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(FAST, **SETTINGS) as server:
        yield server


@pytest.fixture
async def wire(server: Server, anyio_backend: str) -> AsyncGenerator[Wire]:
    async with wire_to(server) as wire:
        yield wire


async def stateless(wire: Wire, method: str, **params: Any) -> Any:
    meta = {
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {"MCP-Protocol-Version": STATELESS, "Mcp-Method": method, "Marker": "its own"}
    if "name" in params:
        headers["Mcp-Name"] = params["name"]
    response = await wire.fork().post(wire.request(method, {**params, "_meta": meta}), **headers)
    assert response.status_code == 200, response.text
    return response.json()


async def stateless_names(wire: Wire) -> set[str]:
    return {tool["name"] for tool in (await stateless(wire, "tools/list"))["result"]["tools"]}


async def names(wire: Wire) -> set[str]:
    return {tool["name"] for tool in (await wire.post(wire.request("tools/list"))).json()["result"]["tools"]}


async def test_tools_are_served_in_both_eras(wire: Wire) -> None:
    await wire.open()
    assert {"bump", "bump_plain", "inner_bump"} <= await names(wire)
    assert {"bump", "bump_plain", "inner_bump"} <= await stateless_names(wire)
    assert await wire.tool("bump") == await wire.tool("peek_plain") == "1"


async def test_a_mounted_server_has_the_same_state(wire: Wire) -> None:
    await wire.open()
    assert await wire.tool("bump") == "1"
    assert await wire.tool("inner_bump") == "2"


async def test_its_lifespan_and_those_of_mounted_servers_are_entered_once(wire: Wire) -> None:
    await wire.open()
    entered = "outer, inner; {'opened by': 'outer'}"
    assert await wire.tool("lifespans_entered") == entered
    answer = await stateless(wire, "tools/call", name="lifespans_entered", arguments={})
    assert text_of(answer) == entered


async def test_it_is_shown_its_transport_and_the_request(wire: Wire) -> None:
    await wire.open()
    wire.headers["Marker"] = "the session's"
    assert await wire.tool("http") == "streamable-http the session's the session's"
    answer = await stateless(wire, "tools/call", name="http", arguments={})
    assert text_of(answer) == "streamable-http its own its own"


async def test_what_one_client_of_the_stateless_era_changes_reaches_no_other(wire: Wire) -> None:
    before = await stateless_names(wire)
    answer = await stateless(wire, "tools/call", name="hide", arguments={"component": "snapshot"})
    assert "result" in answer
    assert await stateless_names(wire) == before
    assert "snapshot" in before


async def test_what_one_session_changes_reaches_no_other(wire: Wire) -> None:
    other = await wire.fork().open()
    await wire.open()
    before = await names(other)
    assert await wire.tool("hide", component="snapshot") == "hidden"
    assert await names(wire) == before - {"snapshot"}
    assert await names(other) == before


async def test_a_repeated_request_of_the_journal_is_shown_its_transport_too(
    start_server: StartServer, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "SESSIONS__STORE": f"sqlite:///{tmp_path / 'sessions.db'}"}
    with start_server(FAST, **settings) as first, start_server(FAST, **settings) as second:
        async with wire_to(first) as wire, wire_to(second) as other:
            await wire.open()
            answer = await wire.post(wire.request("logging/setLevel", {"level": "warning"}))
            assert answer.json()["result"] == {}
            other.headers = wire.headers
            repeated, call = (await other.tool("messages")).split(", ")
            assert (repeated, call) == ("logging/setLevel streamable-http", "tools/call streamable-http")
