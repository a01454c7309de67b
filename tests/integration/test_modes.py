"""`sessions.mode` and `server.json_responses`."""

from __future__ import annotations

import json
from collections.abc import Generator

import anyio
import httpx
import mcp_types as types
import pytest
from mcp.client.client import Client

from tests.integration.server_process import Server, StartServer
from tests.integration.waiting import DEADLINE_SECONDS
from tests.integration.wire import STATELESS, answer_text, error_code, open_wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest.fixture(scope="module")
def optional(start_server: StartServer) -> Generator[Server]:
    with start_server(SESSIONS__MODE="optional", EVENTS__STREAM_AFTER_SECONDS=0.1) as server:
        yield server


@pytest.fixture(scope="module")
def off(start_server: StartServer) -> Generator[Server]:
    with start_server(SESSIONS__MODE="off") as server:
        yield server


@pytest.fixture(scope="module")
def json_only(start_server: StartServer) -> Generator[Server]:
    with start_server(SERVER__JSON_RESPONSES="true", EVENTS__STREAM_AFTER_SECONDS=0.01) as server:
        yield server


# ---------------------------------------------------------------- optional


async def test_optional_serves_requests_without_a_session(optional: Server) -> None:
    async with open_wire(optional) as wire:
        before = await wire.metric("mcp_tornado_sessions_created_total")
        response = await wire.post(wire.tool_request("echo", text="ä"))
        assert answer_text(response.json()) == "ä"
        assert "Mcp-Session-Id" not in response.headers
        assert answer_text((await wire.post(wire.tool_request("whoami"))).json()) == "none"
        assert await wire.metric("mcp_tornado_sessions_created_total") == before
        accepted = await wire.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert (accepted.status_code, accepted.content) == (202, b"")


async def test_optional_streams_without_a_session_and_cancels_at_a_disconnect(optional: Server) -> None:
    async with open_wire(optional) as wire:
        async with wire.post_stream(wire.tool_request("progress", steps=2, meta={"progressToken": 1})) as events:
            frames = await events.read_to_end()
        assert [frame.id for frame in frames] == [None] * 3
        assert answer_text(frames[-1].message) == "done"
        async with wire.post_stream(wire.tool_request("wait_at", gate="lone")) as events:
            assert events.response.headers["Content-Type"] == "text/event-stream"
        assert await wire.call_tool("wait_for_note", note="lone: cancelled")


async def test_optional_serves_sessions(optional: Server) -> None:
    async with open_wire(optional) as wire:
        await wire.open_session()
        assert await wire.call_tool("count") == "1"
        assert await wire.call_tool("count") == "2"
        await wire.delete()
        response = await wire.post(wire.request("ping"))
        assert (response.status_code, error_code(response)) == (404, "SESSION_NOT_FOUND")
        response = await wire.new_client().http.get(optional.url, headers={"Accept": "text/event-stream"})
        assert (response.status_code, error_code(response)) == (400, "SESSION_REQUIRED")


# ---------------------------------------------------------------- off


async def test_off_creates_no_sessions(off: Server) -> None:
    async with open_wire(off) as wire:
        response = await wire.initialize()
        assert response.json()["result"]["protocolVersion"] == "2025-11-25"
        assert "Mcp-Session-Id" not in response.headers
        assert answer_text((await wire.post(wire.tool_request("echo", text="x"))).json()) == "x"
        assert await wire.metric("mcp_tornado_sessions_created_total") == 0
        assert await wire.metric("mcp_tornado_sessions_active") == 0


async def test_off_has_no_session_routes(off: Server) -> None:
    async with open_wire(off) as wire:
        for path in ("/session", "/send", "/receive", "/abort"):
            response = await wire.http.post(off.url + path, json={})
            assert (response.status_code, error_code(response)) == (404, "ROUTE_NOT_FOUND")
        for method in ("GET", "DELETE"):
            response = await wire.http.request(method, off.url, headers={"Accept": "text/event-stream"})
            assert (response.status_code, error_code(response)) == (405, "METHOD_NOT_ALLOWED")
            assert "GET" not in response.headers["Allow"]


@pytest.mark.parametrize("mode", ["legacy", STATELESS, "auto"])
async def test_the_sdk_client_works_with_sessions_off(off: Server, mode: str) -> None:
    async with Client(off.url, mode=mode, read_timeout_seconds=DEADLINE_SECONDS) as client:
        result = await client.call_tool("add", {"a": 1, "b": 2})
        assert isinstance(result.content[0], types.TextContent)
        assert result.content[0].text == "3"
        assert (await client.get_prompt("introduce", {"name": "Ada"})).messages


# ---------------------------------------------------------------- JSON only


async def test_json_only_never_streams_a_post(json_only: Server) -> None:
    async with open_wire(json_only) as wire:
        await wire.open_session()
        for message in (
            wire.tool_request("logs", number=5),
            wire.tool_request("progress", steps=5, meta={"progressToken": 1}),
            wire.tool_request("echo", text="ä"),
        ):
            response = await wire.post(message, Accept="application/json")
            assert response.headers["Content-Type"] == "application/json"
            assert response.json()["id"] == message["id"]


async def test_json_only_waits_for_a_slow_call(json_only: Server) -> None:
    """The call lasts longer than `events.stream_after_seconds`: fifty other calls are answered meanwhile."""
    async with open_wire(json_only) as wire, anyio.create_task_group() as tasks:
        await wire.open_session()
        other = await wire.new_client().open_session()
        responses: list[httpx.Response] = []

        async def call() -> None:
            responses.append(await wire.post(wire.tool_request("wait_at", gate="json")))

        tasks.start_soon(call)
        await other.call_tool("wait_for_note", note="json: started")
        for _ in range(50):
            assert await other.call_tool("has_note", note="json: finished") == "false"
        await other.call_tool("open_gate", gate="json")
    assert responses[0].headers["Content-Type"] == "application/json"
    assert answer_text(responses[0].json()) == "through json"


async def test_json_only_cannot_ask_the_client(json_only: Server) -> None:
    async with open_wire(json_only) as wire:
        await wire.open_session(capabilities={"elicitation": {}, "sampling": {}, "roots": {}})
        for tool in ("elicit", "sample", "roots"):
            body = (await wire.post(wire.tool_request(tool))).json()
            assert "error" in body or body["result"]["isError"], body
            text = json.dumps(body)
            assert "back-channel" in text.lower(), text
        assert answer_text((await wire.post(wire.tool_request("echo", text="alive"))).json()) == "alive"


async def test_json_only_has_the_standalone_stream(json_only: Server) -> None:
    async with open_wire(json_only) as wire:
        await wire.open_session()
        async with wire.get_stream() as events:
            await wire.call_tool("change")
            assert (await events.next_message())["method"] == "notifications/tools/list_changed"
