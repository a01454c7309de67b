"""`mcp_tornado.state` in tools of every kind of server, with two processes that share a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import pytest

from tests.integration.server_process import Server, StartServer, app_name
from tests.integration.stateless_era import post_tool_call
from tests.integration.stores import sqlite_url
from tests.integration.wire import Wire, answer_text, error_code, open_wire

pytestmark = pytest.mark.anyio

Tools = Callable[[str], list[str]]
"""Returns the names of the tools that do the same: the coroutine function, and the plain function if there is one."""

SETTINGS = {"LOG__LEVEL": "DEBUG", "SERVER__JSON_RESPONSES": "true"}


@pytest.fixture(scope="module", params=["server", "lowlevel", "fast"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of server: an attribute of apps/stateful.py."""
    return request.param


@pytest.fixture(scope="module")
def tools(kind: str) -> Tools:
    """See `Tools`; a low-level server has no plain functions."""
    return lambda name: [name] if kind == "lowlevel" else [name, f"{name}_plain"]


@pytest.fixture(scope="module")
def pair(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Server, Server]]:
    """Two processes that serve the same app on one SQLite file."""
    directory = tmp_path_factory.mktemp("state")
    store = ["--store", sqlite_url(directory)]
    servers = [Server(app_name("stateful", kind), directory, SETTINGS, store) for _ in range(2)]
    try:
        assert all(server.url for server in servers)
        yield servers[0], servers[1]
        for server in servers:
            server.stop()
    finally:
        for server in servers:
            server.close()


@pytest.fixture
async def wires(pair: tuple[Server, Server], anyio_backend: str) -> Any:
    async with open_wire(pair[0]) as first, open_wire(pair[1]) as second:
        yield first, second


async def share_session(first: Wire, second: Wire) -> None:
    """Open a session that both clients use."""
    await first.open_session()
    second.headers = dict(first.headers)


async def call_stateless(wire: Wire, tool: str, **arguments: Any) -> str:
    """Call a tool in the stateless era, and return the text of its result."""
    response = await post_tool_call(wire.new_client(), tool, **arguments)
    assert response.status_code == 200, response.text
    assert not response.json()["result"].get("isError"), response.text
    return answer_text(response.json())


# ---------------------------------------------------------------- state of the session


async def test_a_change_at_one_process_is_visible_at_the_other_at_once(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    await share_session(first, second)
    n = 0
    for bump in tools("bump"):
        for peek in tools("peek"):
            n += 1
            assert await first.call_tool(bump) == str(n)
            assert await second.call_tool(peek) == await second.call_tool("snapshot") == str(n)
            n += 1
            assert await second.call_tool(bump) == str(n)
            assert await first.call_tool(peek) == await first.call_tool("snapshot") == str(n)


async def test_concurrent_increments_at_both_processes_are_all_counted(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    await share_session(first, second)
    answers: list[str] = []

    async def run(wire: Wire, tool: str) -> None:
        answers.append(await wire.call_tool(tool))

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            for wire in wires:
                for tool in tools("bump"):
                    group.create_task(run(wire, tool))
    assert sorted(map(int, answers)) == list(range(1, len(answers) + 1))
    assert await first.call_tool("peek") == await second.call_tool("peek") == str(len(answers))


async def test_sessions_have_separate_state(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    await first.open_session()
    await second.open_session()
    assert await first.call_tool("bump") == "1"
    assert await second.call_tool("peek") == "0"


async def test_a_request_without_a_session_has_no_session_state(wires: tuple[Wire, Wire], tools: Tools) -> None:
    for tool in (*tools("bump"), *tools("peek"), "snapshot"):
        assert "no session" in await call_stateless(wires[0], tool)


# ---------------------------------------------------------------- state with a handle


async def test_a_handle_of_one_process_works_at_the_other(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    for start in tools("start"):
        handle = await call_stateless(first, start)
        n = 0
        for bump in tools("bump_at"):
            assert await call_stateless(second, bump, handle=handle) == str(n + 1)
            assert await call_stateless(first, bump, handle=handle) == str(n + 2)
            n += 2


async def test_concurrent_increments_with_a_handle_are_all_counted(wires: tuple[Wire, Wire], tools: Tools) -> None:
    handle = await call_stateless(wires[0], "start")
    answers: list[str] = []

    async def run(wire: Wire, tool: str) -> None:
        answers.append(await call_stateless(wire, tool, handle=handle))

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            for wire in wires:
                for tool in tools("bump_at"):
                    group.create_task(run(wire, tool))
    assert sorted(map(int, answers)) == list(range(1, len(answers) + 1))


async def test_a_handle_works_in_a_session(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    await share_session(first, second)
    handle = await first.call_tool("start")
    assert await second.call_tool("bump_at", handle=handle) == "1"
    assert await call_stateless(first, "bump_at", handle=handle) == "2"
    assert await first.call_tool("peek") == "0"


async def test_a_handle_is_not_a_session_id_and_a_session_id_is_not_a_handle(
    wires: tuple[Wire, Wire], tools: Tools
) -> None:
    first, second = wires
    await first.open_session()
    handle = await call_stateless(first, "start")
    second.headers = {**first.headers, "Mcp-Session-Id": handle}
    for response in (
        await second.post(second.tool_request("peek")),
        await second.http.get(f"{second.server.url}/session", headers=second.headers),
        await second.delete(),
    ):
        assert (response.status_code, error_code(response)) == (404, "SESSION_NOT_FOUND")
    assert await call_stateless(second, "bump_at", handle=handle) == "1"
    for wrong in (first.session_id, "x" * 43, ""):
        for tool in tools("bump_at"):
            answer = await call_stateless(first, tool, handle=wrong)
            assert "no state with this handle" in answer
            assert not wrong or wrong not in answer
    assert await first.call_tool("peek") == "0"


async def test_handles_are_not_logged(kind: str, tools: Tools, start_server: StartServer) -> None:
    with start_server(app_name("stateful", kind), **SETTINGS) as server:
        async with open_wire(server) as wire:
            await wire.open_session()
            handles = [await call_stateless(wire, tool) for tool in tools("start")] + [await wire.call_tool("start")]
            for handle in handles:
                await call_stateless(wire, "bump_at", handle=handle)
                attacker = wire.new_client()
                attacker.headers = {**wire.headers, "Mcp-Session-Id": handle}
                assert (await attacker.post(attacker.tool_request("peek"))).status_code == 404
    logged = "".join(server.raw_log_lines)
    assert not any(handle in logged for handle in handles)
    kinds = [line["kind"] for line in server.log_lines_of("session.created")]
    assert sorted(kinds) == ["session", *["state"] * len(handles)]
    assert [line["reason"] for line in server.log_lines_of("session.rejected")] == ["other_kind"] * len(handles)
