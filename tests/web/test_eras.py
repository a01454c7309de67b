"""Requests without a session: the stateless era, and `sessions.mode`."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.gen_test

STATELESS = "2026-07-28"
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def enveloped(method: str, number: int = 1, **params) -> dict:
    meta = {
        "io.modelcontextprotocol/protocolVersion": STATELESS,
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": meta}}


async def ask(client, message: dict, **headers):
    given = {"MCP_Protocol_Version": STATELESS, "Mcp_Method": message["method"], **headers}
    return await client.fetch("POST", "/mcp", json_body=message, **given)


@pytest.mark.parametrize("sections", [{"sessions": {"mode": mode}} for mode in ("required", "optional", "off")])
async def test_the_stateless_era_needs_no_session_in_any_mode(client):
    answer = await ask(client, enveloped("tools/call", 5, name="echo", arguments={"text": "x"}), Mcp_Name="echo")
    assert answer.result()["content"][0]["text"] == "x"
    assert answer.json()["id"] == 5
    assert "Mcp-Session-Id" not in answer.headers
    # A header of the other era changes nothing.
    assert (await ask(client, enveloped("tools/list"), session="dead")).status == 200


async def test_refusals_of_the_stateless_era_are_the_sdks(client):
    mismatch = await ask(client, enveloped("tools/list"), Mcp_Method="tools/call")
    assert mismatch.status == 400
    assert (mismatch.json()["id"], mismatch.json()["error"]["code"]) == (1, -32020)
    unknown = await ask(client, enveloped("no/such"))
    assert (unknown.status, unknown.json()["error"]["code"]) == (404, -32601)


async def test_the_stateless_era_has_no_batches_and_no_replies(client):
    for body in ([enveloped("tools/list")], {"jsonrpc": "2.0", "id": "s.1", "result": {}}):
        answer = await client.fetch("POST", "/mcp", json_body=body, MCP_Protocol_Version=STATELESS)
        answer.assert_error("INVALID_REQUEST")


async def test_a_subscription_is_a_stream_and_must_be_acceptable(client):
    listen = enveloped("subscriptions/listen", notifications={})
    (await ask(client, listen, Accept="application/json")).assert_error("NOT_ACCEPTABLE")


@pytest.mark.parametrize("sections", [{"sessions": {"mode": "optional"}}])
async def test_optional_serves_a_request_without_a_session_on_its_own(client, helpers):
    assert "tools" in (await client.fetch("POST", "/mcp", json_body=LIST)).result()
    called = await client.fetch("POST", "/mcp", json_body=helpers.tool_call())
    assert called.result()["content"][0]["text"] == "hello"
    assert "Mcp-Session-Id" not in called.headers
    told = await client.fetch("POST", "/mcp", json_body={"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert told.status == 202
    asked = await client.fetch("POST", "/mcp", json_body=helpers.tool_call("ask"))
    assert asked.json()["error"]["code"] == -32600  # nobody could answer: the SDK's NoBackChannelError
    session = await client.initialize()
    assert (await client.call(session)).status == 200
    # One who names a session has it checked.
    (await client.fetch("POST", "/mcp", json_body=LIST, session="dead")).assert_error("SESSION_NOT_FOUND")
    (await client.fetch("GET", "/mcp")).assert_error("SESSION_REQUIRED")
    (await client.fetch("DELETE", "/mcp")).assert_error("SESSION_REQUIRED")


@pytest.mark.parametrize("sections", [{"sessions": {"mode": "off"}}])
async def test_off_ignores_ids(client, helpers):
    answer = await client.fetch("POST", "/mcp", json_body=LIST, session="dead")
    assert "tools" in answer.result()


async def test_required_says_so_first(client):
    """Whatever else is wrong: a client must learn that it needs a session."""
    for given in ({"Accept": "text/html"}, {"Content_Type": "text/plain"}):
        (await client.fetch("POST", "/mcp", json_body=LIST, **given)).assert_error("SESSION_REQUIRED")
    (await client.fetch("POST", "/mcp")).assert_error("SESSION_REQUIRED")
    (await client.fetch("POST", "/mcp", json_body=[LIST])).assert_error("SESSION_REQUIRED")
    (await client.fetch("POST", "/mcp", json_body={"jsonrpc": "2.0", "method": "initialize"})).assert_error(
        "SESSION_REQUIRED"
    )
