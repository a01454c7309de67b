"""Headers: repeated ones in requests, `Cache-Control` in responses; and the characters that end a line."""

from __future__ import annotations

import pytest

from mcp_tornado.streams.frames import Frame
from mcp_tornado.web.sse import encode_event
from tests.web.messages import PING, initialize_request, tool_call
from tests.web.test_eras import STATELESS, stateless_request

pytestmark = pytest.mark.gen_test(timeout=60)

BOTH = "application/json, text/event-stream"


async def test_identical_values_of_a_repeated_header_count_once(client):
    session = await client.create_session()
    origin = "http://localhost:5173"
    answer = await client.fetch(
        "POST",
        "/mcp",
        json_body=PING,
        Mcp_Session_Id=[session, session],
        MCP_Protocol_Version=["2025-11-25"] * 3,
        Content_Type=["application/json", "application/json"],
        Accept=["application/json", "application/json"],
        Origin=[origin, origin],
    )
    assert answer.result() == {}
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    for method, path in (("GET", "/mcp/session"), ("GET", "/mcp/receive"), ("DELETE", "/mcp")):
        assert (await client.fetch(method, path, Mcp_Session_Id=[session, session])).status in (200, 204)


async def test_identical_values_count_once_in_the_stateless_era(client):
    message = stateless_request("tools/list")
    answer = await client.fetch(
        "POST", "/mcp", json_body=message, MCP_Protocol_Version=[STATELESS, STATELESS], Mcp_Method="tools/list"
    )
    assert "tools" in answer.result()


async def test_a_repeated_event_id_resumes(client):
    session = await client.create_session()
    opened = await client.open_stream(
        "POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("steps", 1, {"progressToken": 1})
    )
    first = await opened.read_event()
    while await opened.read_event() is not None:
        pass
    connection = await client.connect()
    lines = [f"Last-Event-ID: {first.id}"] * 2
    head = ["GET /mcp HTTP/1.1", f"Host: {client.host}", f"Mcp-Session-Id: {session}", f"Accept: {BOTH}", *lines]
    await connection.send("\r\n".join(head).encode() + b"\r\n\r\n")
    await connection.read_head()
    events = [await connection.read_event() for _ in range(3)]
    assert [event.message.get("method", "answer") for event in events] == ["notifications/progress"] * 2 + ["answer"]
    assert await connection.read_event() is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Mcp_Session_Id": ["a", "b"]}, 400),
        ({"MCP_Protocol_Version": ["2025-11-25", "2025-06-18"]}, 400),
        ({"Content_Type": ["application/json", "text/plain"]}, 415),
        ({"Origin": ["http://localhost", "http://evil.example"]}, 403),
    ],
)
async def test_different_values_of_a_repeated_header_are_refused(client, headers, status):
    session = {} if "Mcp_Session_Id" in headers else {"session": await client.create_session()}
    assert (await client.fetch("POST", "/mcp", json_body=PING, **session, **headers)).status == status


async def test_every_answer_that_is_no_stream_forbids_to_store_it(client):
    session = await client.create_session()
    live = {"session": session}
    for method, path, headers, status in (
        ("GET", "/mcp/session", live, 200),
        ("GET", "/mcp/receive", live, 200),
        ("POST", "/mcp/session", {}, 201),
        ("POST", "/mcp", {"json_body": initialize_request()}, 200),
        ("POST", "/mcp", {**live, "json_body": tool_call()}, 200),
        ("POST", "/mcp", {**live, "json_body": {"jsonrpc": "2.0", "method": "notifications/x"}}, 202),
        ("POST", "/mcp/send", {**live, "json_body": PING}, 202),
        ("GET", "/healthz", {}, 200),
        ("GET", "/readyz", {}, 200),
        ("GET", "/metrics", {}, 200),
        ("OPTIONS", "/mcp", {"Origin": "http://localhost"}, 204),
        ("GET", "/mcp", {}, 400),
        ("GET", "/mcp/session", {"session": "dead"}, 404),
        ("PUT", "/mcp", live, 405),
        ("GET", "/nowhere", {}, 404),
        ("POST", "/mcp", {**live, "body": b"{"}, 400),
        ("POST", "/mcp", {**live, "json_body": PING, "Accept": "text/html"}, 406),
        ("GET", "/mcp/session", {"Origin": "http://evil.example"}, 403),
        ("GET", "/mcp/session", {"Host": "evil.example"}, 421),
        ("DELETE", "/mcp", live, 204),
    ):
        answer = await client.fetch(method, path, **headers)
        assert (method, path, answer.status) == (method, path, status)
        assert answer.headers.get_list("Cache-Control") == ["no-store"], (method, path)


async def test_a_stream_has_its_own_cache_control(client):
    session = await client.create_session()
    opened = await client.open_stream("GET", "/mcp", Mcp_Session_Id=session)
    assert opened.headers.get_list("Cache-Control") == ["no-cache, no-transform"]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
async def test_characters_that_end_a_line_are_escaped_in_streams(client, character):
    """Clients that split lines as Python does would cut the event there."""
    session = await client.create_session()
    text = f"a{character}\\{character}é"
    opened = await client.open_stream(
        "POST", "/mcp", Mcp_Session_Id=session, Accept="text/event-stream", json_body=tool_call(text=text)
    )
    await opened.read_event()
    answer = await opened.read_event()
    assert answer.fields["data"].splitlines() == [answer.fields["data"]]
    assert answer.message["result"]["content"][0]["text"] == text


def test_an_escaped_event_is_the_same_message():
    message = {"key\u2028": ["\u2029", "\x85", "\\u2028", "\n"]}
    data = encode_event(Frame(None, message), None).decode().removesuffix("\n\n")
    assert data.splitlines() == ["event: message", data.partition("\n")[2]]
