"""The stateless era on the bare wire: an envelope instead of a session."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx
import pytest

from tests.integration.conftest import STATELESS, Events, Server, StartServer, Wire, error_code, text_of, wire_to

pytestmark = pytest.mark.anyio

HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(EVENTS__STREAM_AFTER_SECONDS=0.2, SERVER__KEEPALIVE_SECONDS=0.1) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with wire_to(server) as wire:
        yield wire


def envelope(version: str = STATELESS, **more: Any) -> dict[str, Any]:
    return {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
        **more,
    }


def headers(method: str, name: str | None = None, version: str = STATELESS) -> dict[str, str]:
    named = {"Mcp-Name": name} if name is not None else {}
    return {"MCP-Protocol-Version": version, "Mcp-Method": method, **named}


async def call(wire: Wire, tool: str, **arguments: Any) -> httpx.Response:
    return await wire.post(wire.call(tool, meta=envelope(), **arguments), **headers("tools/call", tool))


async def call_text(wire: Wire, tool: str, **arguments: Any) -> str:
    response = await call(wire, tool, **arguments)
    data = response.text
    if response.headers["Content-Type"] == "text/event-stream":
        data = [line for line in data.splitlines() if line.startswith("data: ")][-1].removeprefix("data: ")
    return text_of(json.loads(data))


async def test_a_call_needs_no_session_and_makes_none(wire: Wire) -> None:
    before = await wire.metric("mcp_tornado_sessions_created_total")
    response = await call(wire, "echo", text="ä")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert text_of(response.json()) == "ä"
    assert "Mcp-Session-Id" not in response.headers
    assert await call_text(wire, "whoami") == "none"
    assert await wire.metric("mcp_tornado_sessions_created_total") == before


async def test_a_session_id_is_neither_needed_nor_shown_to_tools(wire: Wire) -> None:
    await wire.open()
    session_id, wire.headers = wire.session_id, {}
    message = wire.call("whoami", meta=envelope())
    response = await wire.post(message, **headers("tools/call", "whoami"), Mcp_Session_Id=session_id)
    assert text_of(response.json()) == "none"


async def test_discover(wire: Wire) -> None:
    request = wire.request("server/discover", {"_meta": envelope()})
    result = (await wire.post(request, **headers("server/discover"))).json()["result"]
    assert STATELESS in result["supportedVersions"]
    assert "tools" in result["capabilities"]


async def test_streams_have_no_event_ids(wire: Wire) -> None:
    meta = envelope(progressToken="p")
    async with wire.stream(wire.call("progress", meta=meta, steps=3), **headers("tools/call", "progress")) as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        frames = await events.rest()
    assert [frame.id for frame in frames] == [None] * 4
    assert [frame.message["params"]["progress"] for frame in frames[:-1]] == [1, 2, 3]
    assert text_of(frames[-1].message) == "done"


async def test_log_messages_only_for_those_who_ask(wire: Wire) -> None:
    assert (await call(wire, "logs", number=3)).headers["Content-Type"] == "application/json"
    meta = envelope(**{"io.modelcontextprotocol/logLevel": "info"})
    async with wire.stream(wire.call("logs", meta=meta, number=3), **headers("tools/call", "logs")) as events:
        assert len(await events.rest()) == 4


async def test_a_slow_silent_call_becomes_a_stream_that_is_kept_alive(wire: Wire) -> None:
    message = wire.call("wait_at", meta=envelope(), gate="silent")
    async with wire.stream(message, **headers("tools/call", "wait_at")) as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        assert await events.comment()
        await call(wire, "open_gate", gate="silent")
        (frame,) = await events.rest()
        assert text_of(frame.message) == "through silent"


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_disconnect_cancels_the_handler(wire: Wire, streaming: bool) -> None:
    gate = f"disconnect-{streaming}"
    message = wire.call("wait_at", meta=envelope(), gate=gate)
    if streaming:
        async with wire.stream(message, **headers("tools/call", "wait_at")) as events:
            assert await events.comment()
    else:
        async with httpx.AsyncClient() as http:
            hasty = Wire(wire.server, http)
            http.timeout = httpx.Timeout(30, read=0.05)
            with pytest.raises(httpx.ReadTimeout):
                await hasty.post(message, **headers("tools/call", "wait_at"))
    assert await call_text(wire, "seen", what=f"{gate}: cancelled")


async def test_nothing_can_be_asked_of_the_client(wire: Wire) -> None:
    """The handshake era's way of asking fails, and the call with it; the SDK says how."""
    body = (await call(wire, "elicit")).json()
    assert "error" in body or body["result"]["isError"]


async def test_asking_takes_several_rounds(wire: Wire) -> None:
    meta = envelope(**{"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}})
    message = wire.call("greet", meta=meta)
    first = (await wire.post(message, **headers("tools/call", "greet"))).json()["result"]
    assert first["resultType"] == "input_required"
    ((key, request),) = first["inputRequests"].items()
    assert request["method"] == "elicitation/create"
    message["params"] |= {
        "inputResponses": {key: {"action": "accept", "content": {"name": "Ada"}}},
        "requestState": first["requestState"],
    }
    assert text_of((await wire.post(message, **headers("tools/call", "greet"))).json()) == "Hello Ada"


# ---------------------------------------------------------------- subscriptions


async def acknowledged(events: Events) -> Any:
    assert events.response.headers["Content-Type"] == "text/event-stream"
    message = await events.message()
    assert message["method"] == "notifications/subscriptions/acknowledged"
    return message["params"]["notifications"]


async def test_listen(wire: Wire) -> None:
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["memo://mine"]}
    request = wire.request("subscriptions/listen", {"notifications": wanted, "_meta": envelope()}, id="L")
    async with wire.stream(request, **headers("subscriptions/listen")) as events:
        assert await acknowledged(events) == wanted
        assert await events.comment()
        await call(wire, "publish", uri="memo://yours")
        await call(wire, "publish", uri="memo://mine")
        methods = []
        for _ in range(3):
            message = await events.message()
            assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "L"
            methods.append(message["method"].removeprefix("notifications/"))
        assert methods == ["tools/list_changed", "tools/list_changed", "resources/updated"]


async def test_listen_needs_a_stream(wire: Wire) -> None:
    request = wire.request("subscriptions/listen", {"notifications": {}, "_meta": envelope()})
    response = await wire.post(request, **headers("subscriptions/listen"), Accept="application/json")
    assert response.status_code == 406


# ---------------------------------------------------------------- what is refused


async def test_headers_must_match_the_body(wire: Wire) -> None:
    message = wire.call("echo", meta=envelope(), text="x")
    right = headers("tools/call", "echo")
    for wrong in (
        {"Mcp-Method": "tools/list"},
        {"Mcp-Name": "other"},
        {"Mcp-Name": None},
        {"Mcp-Method": None},
    ):
        given = {name: value for name, value in {**right, **wrong}.items() if value is not None}
        response = await wire.post(message, **given)
        assert response.status_code == 400, wrong
        assert response.json()["error"]["code"] == HEADER_MISMATCH
        assert response.json()["id"] == message["id"]


async def test_the_version_must_match_the_body(wire: Wire) -> None:
    message = wire.call("echo", meta=envelope("2099-01-01"), text="x")
    response = await wire.post(message, **headers("tools/call", "echo"))
    assert response.status_code == 400
    assert response.json()["error"]["code"] in (HEADER_MISMATCH, UNSUPPORTED_VERSION)


async def test_an_unknown_version_with_an_envelope(wire: Wire) -> None:
    message = wire.call("echo", meta=envelope("2099-01-01"), text="x")
    response = await wire.post(message, **headers("tools/call", "echo", "2099-01-01"))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == UNSUPPORTED_VERSION
    assert STATELESS in error["data"]["supported"]
    assert error["data"]["requested"] == "2099-01-01"


async def test_an_unknown_version_without_an_envelope(wire: Wire) -> None:
    response = await wire.post(wire.call("echo", text="x"), **headers("tools/call", "echo", "2099-01-01"))
    assert response.status_code == 400
    assert error_code(response) == "UNSUPPORTED_PROTOCOL_VERSION"


async def test_a_missing_envelope(wire: Wire) -> None:
    response = await wire.post(wire.call("echo", text="x"), **headers("tools/call", "echo"))
    assert response.status_code == 400
    assert isinstance(response.json()["error"]["code"], int)


async def test_an_unknown_method_has_the_sdks_status(wire: Wire) -> None:
    response = await wire.post(wire.request("nonesuch/x", {"_meta": envelope()}), **headers("nonesuch/x"))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == -32601


async def test_there_is_no_handshake_in_this_era(wire: Wire) -> None:
    request = wire.request("initialize", {"_meta": envelope()})
    response = await wire.post(request, **headers("initialize"))
    assert "error" in response.json()
    assert "Mcp-Session-Id" not in response.headers


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_post_is_the_only_method(wire: Wire, method: str) -> None:
    response = await wire.http.request(method, wire.server.url, headers={"MCP-Protocol-Version": STATELESS})
    assert response.status_code == 405
    assert error_code(response) == "METHOD_NOT_ALLOWED"
    assert "POST" in response.headers["Allow"]
    assert "DELETE" not in response.headers["Allow"]


async def test_batches_are_refused(wire: Wire) -> None:
    message = wire.call("echo", meta=envelope(), text="x")
    response = await wire.post([message], **headers("tools/call", "echo"))
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")
