"""A FastMCP server in one process. test_cluster_fastmcp.py tests its state in several processes."""

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
from tests.integration.server_process import NOT_JSON, Server, StartServer, app_name
from tests.integration.stateless_era import envelope, stateless_headers
from tests.integration.stores import run_store, sqlite_url
from tests.integration.waiting import wait_until
from tests.integration.wire import Wire, answer_text, open_wire

pytestmark = pytest.mark.anyio

STATEFUL = app_name("stateful", "fast")
FASTMCP_STATE = app_name("fastmcp_state", "fast")
OWN_STORE = app_name("fastmcp_state", "own_store")
SETTINGS = {"SERVER__JSON_RESPONSES": "true"}


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(STATEFUL, **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def state_server(start_server: StartServer) -> Generator[Server]:
    with start_server(FASTMCP_STATE, **SETTINGS) as server:
        yield server


@pytest.fixture
async def wire(server: Server, anyio_backend: str) -> AsyncGenerator[Wire]:
    async with open_wire(server) as wire:
        yield wire


async def post_stateless(wire: Wire, method: str, **params: Any) -> Any:
    """POST a request of the stateless era, with a marker in a header, and return its answer."""
    headers = {**stateless_headers(method, params.get("name")), "Marker": "the request's"}
    response = await wire.new_client().post(wire.request(method, {**params, "_meta": envelope()}), **headers)
    assert response.status_code == 200, response.text
    return response.json()


async def stateless_tool_names(wire: Wire) -> set[str]:
    return {tool["name"] for tool in (await post_stateless(wire, "tools/list"))["result"]["tools"]}


async def tool_names(wire: Wire) -> set[str]:
    return {tool["name"] for tool in (await wire.post(wire.request("tools/list"))).json()["result"]["tools"]}


async def test_tools_are_served_in_both_eras(wire: Wire) -> None:
    await wire.open_session()
    assert {"bump", "bump_plain", "inner_bump"} <= await tool_names(wire)
    assert {"bump", "bump_plain", "inner_bump"} <= await stateless_tool_names(wire)
    assert await wire.call_tool("bump") == await wire.call_tool("peek_plain") == "1"


async def test_a_mounted_server_has_the_same_state(wire: Wire) -> None:
    await wire.open_session()
    assert await wire.call_tool("bump") == "1"
    assert await wire.call_tool("inner_bump") == "2"


async def test_the_lifespans_of_the_server_and_of_mounted_servers_are_entered_once(wire: Wire) -> None:
    await wire.open_session()
    expected = "outer, inner; {'opened by': 'outer'}"
    assert await wire.call_tool("lifespans") == expected
    answer = await post_stateless(wire, "tools/call", name="lifespans", arguments={})
    assert answer_text(answer) == expected


async def test_tools_and_middleware_get_the_transport_and_the_request(wire: Wire) -> None:
    await wire.open_session()
    wire.headers["Marker"] = "the session's"
    assert await wire.call_tool("http_request") == "streamable-http the session's the session's"
    answer = await post_stateless(wire, "tools/call", name="http_request", arguments={})
    assert answer_text(answer) == "streamable-http the request's the request's"
    # A middleware of the SDK, which runs before FastMCP handles the message, gets them too.
    assert await wire.call_tool("message_in_middleware") == "tools/call streamable-http the session's"
    answer = await post_stateless(wire, "tools/call", name="message_in_middleware", arguments={})
    assert answer_text(answer) == "tools/call streamable-http the request's"


async def test_visibility_cannot_be_changed_in_the_stateless_era(wire: Wire) -> None:
    before = await stateless_tool_names(wire)
    answer = await post_stateless(wire, "tools/call", name="hide", arguments={"component": "snapshot"})
    assert await stateless_tool_names(wire) == before
    # FastMCP refuses, because it cannot distinguish clients without a session.
    assert "refused: Session visibility rules are scoped to a client" in answer_text(answer)
    assert "snapshot" in before


async def test_a_server_with_its_own_store_behaves_the_same(start_server: StartServer) -> None:
    with start_server(OWN_STORE, **SETTINGS) as server:
        async with open_wire(server) as wire:
            before = await stateless_tool_names(wire)
            answer = await post_stateless(wire, "tools/call", name="hide", arguments={"component": "get"})
            assert await stateless_tool_names(wire) == before
            assert "refused" in answer_text(answer)
            assert "get" in before
            await wire.open_session()
            await wire.call_tool("put", key="n", value=1)
            assert json.loads(await wire.call_tool("get", key="n")) == {"value": 1}
            assert await wire.call_tool("hide", component="delete") == "hidden"
            assert await tool_names(wire) == before - {"delete"}


async def test_visibility_changes_affect_their_session_only(wire: Wire) -> None:
    other = await wire.new_client().open_session()
    await wire.open_session()
    before = await tool_names(other)
    assert await wire.call_tool("hide", component="snapshot") == "hidden"
    assert await tool_names(wire) == before - {"snapshot"}
    assert await tool_names(other) == before


async def test_a_repeated_request_of_the_journal_has_the_transport_too(
    start_server: StartServer, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "SESSIONS__STORE": sqlite_url(tmp_path)}
    with start_server(STATEFUL, **settings) as first, start_server(STATEFUL, **settings) as second:
        async with open_wire(first) as wire, open_wire(second) as other:
            await wire.open_session()
            answer = await wire.post(wire.request("logging/setLevel", {"level": "warning"}))
            assert answer.json()["result"] == {}
            other.headers = wire.headers
            repeated, call = (await other.call_tool("messages")).split(", ")
            assert (repeated, call) == ("logging/setLevel streamable-http", "tools/call streamable-http")


# ---------------------------------------------------------------- state of clients


async def test_state_outlives_the_process(start_server: StartServer, tmp_path: Path) -> None:
    settings = {**SETTINGS, "SESSIONS__STORE": sqlite_url(tmp_path)}
    with start_server(FASTMCP_STATE, **settings) as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            session = wire.headers
            await wire.call_tool("put", key="n", value=1)
            await wire.call_tool("hide", component="report_steps")
            own = await wire.call_tool("create_session")
            await wire.call_tool("note", session_id=own, text="a")
    with start_server(FASTMCP_STATE, **settings) as server:
        async with open_wire(server) as wire:
            wire.headers = session
            assert json.loads(await wire.call_tool("get", key="n")) == {"value": 1}
            assert "report_steps" not in await tool_names(wire)
            assert json.loads(await wire.call_tool("note", session_id=own, text="b"))["notes"] == ["a", "b"]


async def test_a_call_reads_the_store_once_and_writes_nothing(state_server: Server) -> None:
    async with open_wire(state_server) as wire:
        await wire.open_session()
        await wire.call_tool("hide", component="report_steps")
        before = await count_operations(wire)
        for _ in range(10):
            await wire.call_tool("session_of")
            assert "report_steps" not in await tool_names(wire)
        after = await count_operations(wire)
    assert after["get"] - before["get"] == 20
    assert after["update"] == before["update"]


async def count_operations(wire: Wire) -> dict[str, int]:
    """Return the number of runs of each operation of the store."""
    text = await wire.metrics_text()
    found = re.findall(r'store_operation_duration_seconds_count{operation="(\w+)"} (\d+)', text)
    return {operation: int(count) for operation, count in found}


async def test_a_store_outage_is_reported_as_text(tmp_path: Path) -> None:
    started, proceed = tmp_path / "started", tmp_path / "proceed"

    async def has_started() -> bool:
        return started.exists()

    with run_store("redis", tmp_path) as (url, redis):
        assert redis is not None
        server = Server(FASTMCP_STATE, tmp_path, {**SETTINGS, "SESSIONS__STORE": url})
        try:
            async with open_wire(server) as wire, asyncio.TaskGroup() as tasks:
                await wire.open_session()
                request = wire.tool_request("put_on_request", started=str(started), proceed=str(proceed))
                call = tasks.create_task(wire.post(request))
                await wait_until(has_started, "the tool has started")
                with redis.killed():
                    proceed.touch()
                    answer = (await call).json()
                    assert answer["result"]["isError"]
                    assert answer_text(answer) == (
                        "Error calling tool 'put_on_request': The session store did not answer in time"
                    )
                assert json.loads(await wire.call_tool("get", key="late")) == {"value": None}
        finally:
            server.close()


# ---------------------------------------------------------------- logging


async def test_fastmcp_logs_through_the_server_log(start_server: StartServer) -> None:
    with start_server(FASTMCP_STATE, **SETTINGS, LOG__LEVEL="DEBUG") as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            assert "an accident" in (await wire.post(wire.tool_request("accident"))).text
            await wire.call_tool("log", text="a secret")
    assert all(line["event"] != NOT_JSON for line in server.log_lines), server.raw_log_lines
    logged = {line["event"]: line for line in server.log_lines if line.get("logger", "").startswith("fastmcp.")}
    assert logged["Component already exists: tool:twice@"]["level"] == "warning"
    assert "ZeroDivisionError" in logged["Error calling tool 'accident'"]["exception"]
    assert logged["Error calling tool 'accident'"]["session"]
    # At DEBUG, FastMCP itself would log the arguments of calls and the messages to clients.
    assert "a secret" not in "".join(server.raw_log_lines)


def test_create_app_does_not_change_the_logging_of_fastmcp() -> None:
    logger = logging.getLogger("fastmcp")
    before = (logger.handlers[:], logger.level, logger.propagate)
    create_app(FastMCP("embedded"))
    assert (logger.handlers, logger.level, logger.propagate) == before
