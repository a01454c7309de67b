"""The stateless era on the wire: an envelope instead of a session."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx
import pytest

from tests.integration.server_process import Server, StartServer
from tests.integration.stateless_era import (
    ELICITATION_CAPABILITY,
    HEADER_MISMATCH,
    UNSUPPORTED_VERSION,
    envelope,
    post_tool_call,
    read_acknowledgement,
    stateless_headers,
)
from tests.integration.wire import STATELESS, Wire, answer_text, error_code, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(EVENTS__STREAM_AFTER_SECONDS=0.2, SERVER__KEEPALIVE_SECONDS=0.1) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with open_wire(server) as wire:
        yield wire


async def call_text(wire: Wire, tool: str, **arguments: Any) -> str:
    """Call a tool and return the text of its result, which may come as JSON or on a stream."""
    response = await post_tool_call(wire, tool, **arguments)
    data = response.text
    if response.headers["Content-Type"] == "text/event-stream":
        data = [line for line in data.splitlines() if line.startswith("data: ")][-1].removeprefix("data: ")
    return answer_text(json.loads(data))


async def test_a_call_needs_no_session_and_creates_none(wire: Wire) -> None:
    before = await wire.metric("mcp_tornado_sessions_created_total")
    response = await post_tool_call(wire, "echo", text="ä")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert answer_text(response.json()) == "ä"
    assert "Mcp-Session-Id" not in response.headers
    assert await call_text(wire, "whoami") == "none"
    assert await wire.metric("mcp_tornado_sessions_created_total") == before


async def test_a_session_id_is_ignored_and_not_passed_to_tools(wire: Wire) -> None:
    await wire.open_session()
    session_id, wire.headers = wire.session_id, {}
    message = wire.tool_request("whoami", meta=envelope())
    response = await wire.post(message, **stateless_headers("tools/call", "whoami"), Mcp_Session_Id=session_id)
    assert answer_text(response.json()) == "none"


async def test_discover_returns_revisions_and_capabilities(wire: Wire) -> None:
    request = wire.request("server/discover", {"_meta": envelope()})
    result = (await wire.post(request, **stateless_headers("server/discover"))).json()["result"]
    assert STATELESS in result["supportedVersions"]
    assert "tools" in result["capabilities"]


async def test_streams_have_no_event_ids(wire: Wire) -> None:
    meta = envelope(progressToken="p")
    async with wire.post_stream(
        wire.tool_request("progress", meta=meta, steps=3), **stateless_headers("tools/call", "progress")
    ) as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        frames = await events.read_to_end()
    assert [frame.id for frame in frames] == [None] * 4
    assert [frame.message["params"]["progress"] for frame in frames[:-1]] == [1, 2, 3]
    assert answer_text(frames[-1].message) == "done"


async def test_log_messages_are_sent_only_on_request(wire: Wire) -> None:
    assert (await post_tool_call(wire, "logs", number=3)).headers["Content-Type"] == "application/json"
    meta = envelope(**{"io.modelcontextprotocol/logLevel": "info"})
    async with wire.post_stream(
        wire.tool_request("logs", meta=meta, number=3), **stateless_headers("tools/call", "logs")
    ) as events:
        assert len(await events.read_to_end()) == 4


async def test_a_slow_silent_call_becomes_a_stream_with_keep_alive_comments(wire: Wire) -> None:
    message = wire.tool_request("wait_at", meta=envelope(), gate="silent")
    async with wire.post_stream(message, **stateless_headers("tools/call", "wait_at")) as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        assert await events.next_comment()
        await post_tool_call(wire, "open_gate", gate="silent")
        (frame,) = await events.read_to_end()
        assert answer_text(frame.message) == "through silent"


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_disconnect_cancels_the_handler(wire: Wire, streaming: bool) -> None:
    gate = f"disconnect-{streaming}"
    message = wire.tool_request("wait_at", meta=envelope(), gate=gate)
    if streaming:
        async with wire.post_stream(message, **stateless_headers("tools/call", "wait_at")) as events:
            assert await events.next_comment()
    else:
        async with httpx.AsyncClient() as http:
            impatient = Wire(wire.server, http)
            http.timeout = httpx.Timeout(30, read=0.05)
            with pytest.raises(httpx.ReadTimeout):
                await impatient.post(message, **stateless_headers("tools/call", "wait_at"))
    assert await call_text(wire, "wait_for_note", note=f"{gate}: cancelled")


async def test_a_question_of_the_handshake_era_fails(wire: Wire) -> None:
    """A question in the way of the handshake era fails, and the call with it."""
    body = (await post_tool_call(wire, "elicit")).json()
    assert "error" in body or body["result"]["isError"]


async def test_a_question_takes_several_rounds(wire: Wire) -> None:
    message = wire.tool_request("greet", meta=envelope(**ELICITATION_CAPABILITY))
    first = (await wire.post(message, **stateless_headers("tools/call", "greet"))).json()["result"]
    assert first["resultType"] == "input_required"
    ((key, request),) = first["inputRequests"].items()
    assert request["method"] == "elicitation/create"
    message["params"] |= {
        "inputResponses": {key: {"action": "accept", "content": {"name": "Ada"}}},
        "requestState": first["requestState"],
    }
    assert answer_text((await wire.post(message, **stateless_headers("tools/call", "greet"))).json()) == "Hello Ada"


# ---------------------------------------------------------------- subscriptions


async def test_a_subscription_gets_the_requested_notifications(wire: Wire) -> None:
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["memo://mine"]}
    request = wire.request("subscriptions/listen", {"notifications": wanted, "_meta": envelope()}, id="L")
    async with wire.post_stream(request, **stateless_headers("subscriptions/listen")) as events:
        assert await read_acknowledgement(events) == wanted
        assert await events.next_comment()
        await post_tool_call(wire, "publish", uri="memo://yours")
        await post_tool_call(wire, "publish", uri="memo://mine")
        methods = []
        for _ in range(3):
            message = await events.next_message()
            assert message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "L"
            methods.append(message["method"].removeprefix("notifications/"))
        assert methods == ["tools/list_changed", "tools/list_changed", "resources/updated"]


async def test_a_subscription_needs_a_stream(wire: Wire) -> None:
    request = wire.request("subscriptions/listen", {"notifications": {}, "_meta": envelope()})
    response = await wire.post(request, **stateless_headers("subscriptions/listen"), Accept="application/json")
    assert response.status_code == 406


# ---------------------------------------------------------------- refusals


async def test_headers_must_match_the_body(wire: Wire) -> None:
    message = wire.tool_request("echo", meta=envelope(), text="x")
    right = stateless_headers("tools/call", "echo")
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


async def test_the_revision_must_match_the_body(wire: Wire) -> None:
    message = wire.tool_request("echo", meta=envelope("2099-01-01"), text="x")
    response = await wire.post(message, **stateless_headers("tools/call", "echo"))
    assert response.status_code == 400
    assert response.json()["error"]["code"] in (HEADER_MISMATCH, UNSUPPORTED_VERSION)


async def test_an_unknown_revision_in_an_envelope_is_refused(wire: Wire) -> None:
    message = wire.tool_request("echo", meta=envelope("2099-01-01"), text="x")
    response = await wire.post(message, **stateless_headers("tools/call", "echo", "2099-01-01"))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == UNSUPPORTED_VERSION
    assert STATELESS in error["data"]["supported"]
    assert error["data"]["requested"] == "2099-01-01"


async def test_an_unknown_revision_without_an_envelope_is_refused(wire: Wire) -> None:
    response = await wire.post(
        wire.tool_request("echo", text="x"), **stateless_headers("tools/call", "echo", "2099-01-01")
    )
    assert response.status_code == 400
    assert error_code(response) == "UNSUPPORTED_PROTOCOL_VERSION"


async def test_a_missing_envelope_is_refused(wire: Wire) -> None:
    response = await wire.post(wire.tool_request("echo", text="x"), **stateless_headers("tools/call", "echo"))
    assert response.status_code == 400
    assert isinstance(response.json()["error"]["code"], int)


async def test_an_unknown_method_is_not_found(wire: Wire) -> None:
    response = await wire.post(wire.request("nonesuch/x", {"_meta": envelope()}), **stateless_headers("nonesuch/x"))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == -32601


async def test_initialize_is_refused(wire: Wire) -> None:
    request = wire.request("initialize", {"_meta": envelope()})
    response = await wire.post(request, **stateless_headers("initialize"))
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
    message = wire.tool_request("echo", meta=envelope(), text="x")
    response = await wire.post([message], **stateless_headers("tools/call", "echo"))
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")
