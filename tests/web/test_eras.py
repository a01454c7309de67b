"""Requests without a session: the stateless era, and `sessions.mode`."""

from __future__ import annotations

import pytest

from tests.web.messages import tool_call

pytestmark = pytest.mark.gen_test(timeout=60)

STATELESS = "2026-07-28"
LIST_TOOLS = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def stateless_request(method: str, request_id: int = 1, **params) -> dict:
    meta = {
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, "_meta": meta}}


async def send(client, message: dict, **headers):
    sent = {"MCP_Protocol_Version": STATELESS, "Mcp_Method": message["method"], **headers}
    return await client.fetch("POST", "/mcp", json_body=message, **sent)


@pytest.mark.parametrize("sections", [{"sessions": {"mode": mode}} for mode in ("required", "optional", "off")])
async def test_the_stateless_era_needs_no_session_in_any_mode(client):
    answer = await send(
        client, stateless_request("tools/call", 5, name="echo", arguments={"text": "x"}), Mcp_Name="echo"
    )
    assert answer.result()["content"][0]["text"] == "x"
    assert answer.json()["id"] == 5
    assert "Mcp-Session-Id" not in answer.headers
    # The session header of the handshake era is ignored.
    assert (await send(client, stateless_request("tools/list"), session="dead")).status == 200


async def test_refusals_of_the_stateless_era_are_those_of_the_sdk(client):
    mismatch = await send(client, stateless_request("tools/list"), Mcp_Method="tools/call")
    assert mismatch.status == 400
    assert (mismatch.json()["id"], mismatch.json()["error"]["code"]) == (1, -32020)
    unknown = await send(client, stateless_request("no/such"))
    assert (unknown.status, unknown.json()["error"]["code"]) == (404, -32601)


async def test_the_stateless_era_has_no_batches_and_no_replies(client):
    for body in ([stateless_request("tools/list")], {"jsonrpc": "2.0", "id": "s.1", "result": {}}):
        answer = await client.fetch("POST", "/mcp", json_body=body, MCP_Protocol_Version=STATELESS)
        answer.assert_error("INVALID_REQUEST")


async def test_subscription_needs_a_client_that_accepts_a_stream(client):
    listen = stateless_request("subscriptions/listen", notifications={})
    (await send(client, listen, Accept="application/json")).assert_error("NOT_ACCEPTABLE")


@pytest.mark.parametrize("sections", [{"sessions": {"mode": "optional"}}])
async def test_optional_mode_serves_requests_without_a_session(client):
    assert "tools" in (await client.fetch("POST", "/mcp", json_body=LIST_TOOLS)).result()
    called = await client.fetch("POST", "/mcp", json_body=tool_call())
    assert called.result()["content"][0]["text"] == "hello"
    assert "Mcp-Session-Id" not in called.headers
    notified = await client.fetch("POST", "/mcp", json_body={"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert notified.status == 202
    asked = await client.fetch("POST", "/mcp", json_body=tool_call("ask"))
    assert asked.json()["error"]["code"] == -32600  # NoBackChannelError of the SDK: no session to answer in
    session = await client.initialize()
    assert (await client.call_tool(session)).status == 200
    # A session id is checked if the client sends one.
    (await client.fetch("POST", "/mcp", json_body=LIST_TOOLS, session="dead")).assert_error("SESSION_NOT_FOUND")
    (await client.fetch("GET", "/mcp")).assert_error("SESSION_REQUIRED")
    (await client.fetch("DELETE", "/mcp")).assert_error("SESSION_REQUIRED")


@pytest.mark.parametrize("sections", [{"sessions": {"mode": "off"}}])
async def test_off_mode_ignores_session_ids(client):
    answer = await client.fetch("POST", "/mcp", json_body=LIST_TOOLS, session="dead")
    assert "tools" in answer.result()


async def test_session_required_comes_before_other_errors(client):
    """A client without a session must first learn that it needs one, whatever else is wrong."""
    for headers in ({"Accept": "text/html"}, {"Content_Type": "text/plain"}):
        (await client.fetch("POST", "/mcp", json_body=LIST_TOOLS, **headers)).assert_error("SESSION_REQUIRED")
    (await client.fetch("POST", "/mcp")).assert_error("SESSION_REQUIRED")
    (await client.fetch("POST", "/mcp", json_body=[LIST_TOOLS])).assert_error("SESSION_REQUIRED")
    (await client.fetch("POST", "/mcp", json_body={"jsonrpc": "2.0", "method": "initialize"})).assert_error(
        "SESSION_REQUIRED"
    )
