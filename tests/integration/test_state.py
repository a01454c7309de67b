"""State that tools keep, from every kind of server, between processes that share a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import STATELESS, Server, StartServer, Wire, error_code, text_of, wire_to

pytestmark = pytest.mark.anyio

STATEFUL = Path(__file__).with_name("stateful.py")
Tools = Callable[[str], list[str]]

SETTINGS = {"LOG__LEVEL": "DEBUG", "SERVER__JSON_RESPONSES": "true"}


@pytest.fixture(scope="module", params=["server", "lowlevel", "fast"])
def kind(request: pytest.FixtureRequest) -> str:
    """An attribute of stateful.py."""
    return request.param


@pytest.fixture(scope="module")
def tools(kind: str) -> Tools:
    """Return the async tool of a name and, where the server has plain functions, that one too."""
    return lambda name: [name] if kind == "lowlevel" else [name, f"{name}_plain"]


@pytest.fixture(scope="module")
def pair(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Server, Server]]:
    """Two processes that serve the same on one SQLite file."""
    directory = tmp_path_factory.mktemp("state")
    store = ["--store", f"sqlite:///{directory / 'sessions.db'}"]
    servers = [Server(f"{STATEFUL}:{kind}", directory, SETTINGS, store) for _ in range(2)]
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
    async with wire_to(pair[0]) as first, wire_to(pair[1]) as second:
        yield first, second


async def shared_session(first: Wire, second: Wire) -> None:
    await first.open()
    second.headers = dict(first.headers)


def envelope() -> dict[str, Any]:
    return {
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }


async def stateless(wire: Wire, tool: str, **arguments: Any) -> str:
    """Call a tool in a request that stands alone, and return its text."""
    headers = {"MCP-Protocol-Version": STATELESS, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    response = await wire.fork().post(wire.call(tool, meta=envelope(), **arguments), **headers)
    assert response.status_code == 200, response.text
    assert not response.json()["result"].get("isError"), response.text
    return text_of(response.json())


# ---------------------------------------------------------------- in the session


async def test_what_one_process_stores_the_other_sees_at_once(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    await shared_session(first, second)
    n = 0
    for bump in tools("bump"):
        for peek in tools("peek"):
            n += 1
            assert await first.tool(bump) == str(n)
            assert await second.tool(peek) == await second.tool("snapshot") == str(n)
            n += 1
            assert await second.tool(bump) == str(n)
            assert await first.tool(peek) == await first.tool("snapshot") == str(n)


async def test_increments_at_both_processes_at_once_lose_none(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    await shared_session(first, second)
    answers: list[str] = []

    async def run(wire: Wire, tool: str) -> None:
        answers.append(await wire.tool(tool))

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            for wire in wires:
                for tool in tools("bump"):
                    group.create_task(run(wire, tool))
    assert sorted(map(int, answers)) == list(range(1, len(answers) + 1))
    assert await first.tool("peek") == await second.tool("peek") == str(len(answers))


async def test_sessions_share_nothing(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    await first.open()
    await second.open()
    assert await first.tool("bump") == "1"
    assert await second.tool("peek") == "0"


async def test_a_request_without_a_session_has_no_state_of_one(wires: tuple[Wire, Wire], tools: Tools) -> None:
    for tool in (*tools("bump"), *tools("peek"), "snapshot"):
        assert "no session" in await stateless(wires[0], tool)


# ---------------------------------------------------------------- behind a handle


async def test_a_handle_made_at_one_process_is_good_at_the_other(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    for start in tools("start"):
        handle = await stateless(first, start)
        n = 0
        for bump in tools("bump_at"):
            assert await stateless(second, bump, handle=handle) == str(n + 1)
            assert await stateless(first, bump, handle=handle) == str(n + 2)
            n += 2


async def test_increments_behind_a_handle_lose_none(wires: tuple[Wire, Wire], tools: Tools) -> None:
    handle = await stateless(wires[0], "start")
    answers: list[str] = []

    async def run(wire: Wire, tool: str) -> None:
        answers.append(await stateless(wire, tool, handle=handle))

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            for wire in wires:
                for tool in tools("bump_at"):
                    group.create_task(run(wire, tool))
    assert sorted(map(int, answers)) == list(range(1, len(answers) + 1))


async def test_a_session_may_use_handles_too(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    await shared_session(first, second)
    handle = await first.tool("start")
    assert await second.tool("bump_at", handle=handle) == "1"
    assert await stateless(first, "bump_at", handle=handle) == "2"
    assert await first.tool("peek") == "0"


async def test_a_handle_is_no_session_and_a_session_is_no_handle(wires: tuple[Wire, Wire], tools: Tools) -> None:
    first, second = wires
    await first.open()
    handle = await stateless(first, "start")
    second.headers = {**first.headers, "Mcp-Session-Id": handle}
    for response in (
        await second.post(second.call("peek")),
        await second.http.get(f"{second.server.url}/session", headers=second.headers),
        await second.delete(),
    ):
        assert (response.status_code, error_code(response)) == (404, "SESSION_NOT_FOUND")
    assert await stateless(second, "bump_at", handle=handle) == "1"
    for wrong in (first.session_id, "x" * 43, ""):
        for tool in tools("bump_at"):
            answer = await stateless(first, tool, handle=wrong)
            assert "no state with this handle" in answer
            assert not wrong or wrong not in answer
    assert await first.tool("peek") == "0"


async def test_no_handle_is_ever_logged(kind: str, tools: Tools, start_server: StartServer) -> None:
    with start_server(f"{STATEFUL}:{kind}", **SETTINGS) as server:
        async with wire_to(server) as wire:
            await wire.open()
            handles = [await stateless(wire, tool) for tool in tools("start")] + [await wire.tool("start")]
            for handle in handles:
                await stateless(wire, "bump_at", handle=handle)
                thief = wire.fork()
                thief.headers = {**wire.headers, "Mcp-Session-Id": handle}
                assert (await thief.post(thief.call("peek"))).status_code == 404
    logged = "".join(server.texts)
    assert not any(handle in logged for handle in handles)
    kinds = [line["kind"] for line in server.events("session.created")]
    assert sorted(kinds) == ["session", *["state"] * len(handles)]
    assert [line["reason"] for line in server.events("session.rejected")] == ["other_kind"] * len(handles)
