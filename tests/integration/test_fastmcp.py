"""A FastMCP server as it is served: one process. What it keeps for its clients is in test_cluster_fastmcp.py."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest
from fastmcp import FastMCP

from mcp_tornado import create_app
from tests.integration.cluster import store_of
from tests.integration.conftest import STATELESS, Server, StartServer, Wire, text_of, until, wire_to

pytestmark = pytest.mark.anyio

FAST = f"{Path(__file__).with_name('stateful.py')}:fast"
KEEPING = f"{Path(__file__).with_name('fast.py')}:fast"
OWN_STORE = f"{Path(__file__).with_name('fast.py')}:own"
SETTINGS = {"SERVER__JSON_RESPONSES": "true"}


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(FAST, **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def keeping(start_server: StartServer) -> Generator[Server]:
    with start_server(KEEPING, **SETTINGS) as server:
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
    # A middleware of the SDK's, which runs before FastMCP knows anything of the message, is shown them too.
    assert await wire.tool("seen_by_middleware") == "tools/call streamable-http the session's"
    answer = await stateless(wire, "tools/call", name="seen_by_middleware", arguments={})
    assert text_of(answer) == "tools/call streamable-http its own"


async def test_what_one_client_of_the_stateless_era_changes_reaches_no_other(wire: Wire) -> None:
    before = await stateless_names(wire)
    answer = await stateless(wire, "tools/call", name="hide", arguments={"component": "snapshot"})
    assert await stateless_names(wire) == before
    # FastMCP knows that it cannot tell one client from another.
    assert "refused: Session visibility rules are scoped to a client" in text_of(answer)
    assert "snapshot" in before


async def test_nor_does_it_where_the_server_has_a_store_of_its_own(start_server: StartServer) -> None:
    with start_server(OWN_STORE, **SETTINGS) as server:
        async with wire_to(server) as wire:
            before = await stateless_names(wire)
            answer = await stateless(wire, "tools/call", name="hide", arguments={"component": "look"})
            assert await stateless_names(wire) == before
            assert "refused" in text_of(answer)
            assert "look" in before
            await wire.open()
            await wire.tool("put", key="n", value=1)
            assert json.loads(await wire.tool("look", key="n")) == {"value": 1}
            assert await wire.tool("hide", component="drop") == "hidden"
            assert await names(wire) == before - {"drop"}


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


# ---------------------------------------------------------------- what it keeps for its clients


async def test_what_it_keeps_outlives_the_process(start_server: StartServer, tmp_path: Path) -> None:
    settings = {**SETTINGS, "SESSIONS__STORE": f"sqlite:///{tmp_path / 'sessions.db'}"}
    with start_server(KEEPING, **settings) as server:
        async with wire_to(server) as wire:
            await wire.open()
            session = wire.headers
            await wire.tool("put", key="n", value=1)
            await wire.tool("hide", component="steps")
            own = await wire.tool("create_session")
            await wire.tool("note", session_id=own, text="a")
    with start_server(KEEPING, **settings) as server:
        async with wire_to(server) as wire:
            wire.headers = session
            assert json.loads(await wire.tool("look", key="n")) == {"value": 1}
            assert "steps" not in await names(wire)
            assert json.loads(await wire.tool("note", session_id=own, text="b"))["notes"] == ["a", "b"]


async def test_a_call_reads_the_store_once_and_writes_nothing(keeping: Server) -> None:
    async with wire_to(keeping) as wire:
        await wire.open()
        await wire.tool("hide", component="steps")
        before = await operations(wire)
        for _ in range(10):
            await wire.tool("session_of")
            assert "steps" not in await names(wire)
        after = await operations(wire)
    assert after["get"] - before["get"] == 20
    assert after["update"] == before["update"]


async def operations(wire: Wire) -> dict[str, int]:
    """Return how often each operation of the store has run."""
    text = (await wire.http.get(f"{wire.server.origin}/metrics")).text
    found = re.findall(r'store_operation_duration_seconds_count{operation="(\w+)"} (\d+)', text)
    return {operation: int(count) for operation, count in found}


async def test_a_store_that_goes_away_is_told_in_words(tmp_path: Path) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go on"

    async def has_begun() -> bool:
        return begun.exists()

    with store_of("redis", tmp_path) as (url, redis):
        assert redis is not None
        server = Server(KEEPING, tmp_path, {**SETTINGS, "SESSIONS__STORE": url})
        try:
            async with wire_to(server) as wire:
                await wire.open()
                call = asyncio.create_task(wire.post(wire.call("put_later", begun=str(begun), go_on=str(go_on))))
                await until(has_begun)
                with redis.killed():
                    go_on.touch()
                    answer = (await call).json()
                    assert answer["result"]["isError"]
                    assert text_of(answer) == (
                        "Error calling tool 'put_later': The session store did not answer in time"
                    )
                assert json.loads(await wire.tool("look", key="late")) == {"value": None}
        finally:
            server.close()


# ---------------------------------------------------------------- what it logs


async def test_what_it_logs_goes_the_way_of_everything_else(start_server: StartServer) -> None:
    with start_server(KEEPING, **SETTINGS, LOG__LEVEL="DEBUG") as server:
        async with wire_to(server) as wire:
            await wire.open()
            assert "an accident" in (await wire.post(wire.call("accident"))).text
            await wire.tool("say", text="a secret")
    assert all(line["event"] != "this is no JSON" for line in server.lines), server.texts
    logged = {line["event"]: line for line in server.lines if line.get("logger", "").startswith("fastmcp.")}
    assert logged["Component already exists: tool:twice@"]["level"] == "warning"
    assert "ZeroDivisionError" in logged["Error calling tool 'accident'"]["exception"]
    assert logged["Error calling tool 'accident'"]["session"]
    # At DEBUG, FastMCP logs what calls are given and what clients are told.
    assert "a secret" not in "".join(server.texts)


def test_in_a_program_that_only_embeds_us_it_logs_as_ever() -> None:
    logger = logging.getLogger("fastmcp")
    before = (logger.handlers[:], logger.level, logger.propagate)
    create_app(FastMCP("embedded"))
    assert (logger.handlers, logger.level, logger.propagate) == before
