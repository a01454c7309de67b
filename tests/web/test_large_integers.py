"""Integers of more than 64 bits are exact: in arguments, request ids and progress tokens."""

from __future__ import annotations

import asyncio
import json

import pytest
from mcp.server.mcpserver import Context, MCPServer

from tests.web.messages import initialize_request, tool_call
from tests.web.test_eras import send, stateless_request
from tests.web.test_send_receive import receive

pytestmark = pytest.mark.gen_test(timeout=60)

LARGE = [2**64 + 1, -(2**63) - 1, 10**4300 - 1]
ROUTES_WITH_BODY = ["/mcp", "/mcp/send", "/mcp/abort", "/mcp/session"]


def digits(number: int) -> str:
    return f"{len(str(number))} digits"


@pytest.fixture
def server():
    server = MCPServer("integers")

    @server.tool()
    async def add(ctx: Context, n: int, steps: int = 0) -> dict[str, int]:
        for step in range(steps):
            await ctx.report_progress(step)
        return {"n": n}

    @server.tool()
    async def wait(ctx: Context) -> str:
        await ctx.report_progress(1)
        await asyncio.sleep(60)
        return "waited"

    return server


def text_of(message) -> str:
    """Return a value as JSON, in which an integer differs from a float."""
    return json.dumps(message)


@pytest.mark.parametrize("number", LARGE, ids=digits)
async def test_argument_and_request_id_are_exact(client, number):
    session = await client.initialize()
    answer = await client.call_tool(session, "add", number, n=number)
    assert text_of(answer.json()["id"]) == text_of(number)
    assert text_of(answer.result()["structuredContent"]) == text_of({"n": number})


@pytest.mark.parametrize("number", LARGE, ids=digits)
async def test_progress_token_and_request_id_of_a_stream_are_exact(client, number):
    session = await client.initialize()
    call = tool_call("add", number, {"progressToken": number}, n=number, steps=1)
    stream = await client.open_stream("POST", "/mcp", Mcp_Session_Id=session, json_body=call)
    messages = []
    while (event := await stream.read_event()) is not None:
        messages += [event.message] if event.message else []
    progress, answer = messages
    assert text_of(progress["params"]["progressToken"]) == text_of(number)
    assert text_of(answer["id"]) == text_of(number)
    assert text_of(answer["result"]["structuredContent"]) == text_of({"n": number})


@pytest.mark.parametrize("number", LARGE, ids=digits)
async def test_sent_call_is_received_with_exact_integers(client, number):
    session = await client.initialize()
    call = tool_call("add", number, n=number)
    sent = await client.fetch("POST", "/mcp/send", session=session, json_body=call)
    assert text_of(sent.json()) == text_of({"accepted": number})
    message = (await receive(client, session, wait="20"))["events"][-1]["message"]
    assert text_of([message["id"], message["result"]["structuredContent"]]) == text_of([number, {"n": number}])


@pytest.mark.parametrize("number", LARGE, ids=digits)
async def test_stateless_request_has_exact_integers(client, number):
    request = stateless_request("tools/call", number, name="add", arguments={"n": number})
    answer = (await send(client, request, Mcp_Name="add")).json()
    assert text_of([answer["id"], answer["result"]["structuredContent"]]) == text_of([number, {"n": number}])


@pytest.mark.parametrize(
    ("number", "given"),
    [*((number, number) for number in LARGE), *((number, str(number)) for number in LARGE if number > 0)],
    ids=lambda number: f"{type(number).__name__}-{digits(number)}",
)
@pytest.mark.parametrize("by", ["abort", "notification"])
async def test_call_is_cancelled_by_its_exact_id(client, number, given, by):
    session = await client.initialize()
    call = tool_call("wait", number, {"progressToken": "t"})
    stream = await client.open_stream("POST", "/mcp", Mcp_Session_Id=session, json_body=call)
    while (await stream.read_event()).message is None:
        pass
    for request_id, status in ((number - 1, 404), (given, 202)):
        if by == "abort":
            body = {"requestId": request_id}
            assert (await client.fetch("POST", "/mcp/abort", session=session, json_body=body)).status == status
        else:
            params = {"requestId": request_id}
            body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            await client.fetch("POST", "/mcp", session=session, json_body=body)
    answer = (await stream.read_event()).message
    assert answer["error"]["code"] == -32800
    assert text_of(answer["id"]) == text_of(number)


@pytest.mark.parametrize("number", LARGE, ids=digits)
async def test_client_parameters_are_kept_exactly(client, number):
    capabilities = {"experimental": {"a": {"b": number}}}
    session = await client.initialize(capabilities=capabilities)
    shown = (await client.fetch("GET", "/mcp/session", session=session)).json()
    assert text_of(shown["clientParams"]["capabilities"]) == text_of(capabilities)


@pytest.mark.parametrize("path", ROUTES_WITH_BODY)
async def test_longer_integer_is_a_parse_error(client, path):
    session = await client.create_session()
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"a": -%s}}' % (b"9" * 4301)
    error = (await client.fetch("POST", path, session=session, body=body)).assert_error("PARSE_ERROR")
    assert error["message"].endswith("an integer has more than 4300 digits")


async def test_longer_integer_in_initialize_is_a_parse_error(client):
    text = json.dumps(initialize_request(capabilities={"experimental": {"a": {"b": 0}}}))
    body = text.replace('"b": 0', '"b": ' + "1" * 4301).encode()
    (await client.fetch("POST", "/mcp", body=body)).assert_error("PARSE_ERROR")
