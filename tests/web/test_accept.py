"""`Accept`: which requests are answered with JSON, and which with a stream."""

from __future__ import annotations

import pytest

from mcp_tornado.sessions import StoreUnavailable
from mcp_tornado.web.headers import accepts, names
from tests.web.messages import PING, initialize_request, tool_call
from tests.web.test_eras import STATELESS, stateless_request

pytestmark = pytest.mark.gen_test(timeout=60)

JSON, STREAM = "application/json", "text/event-stream"
JSON_ONLY = [JSON, "application/*", f"{JSON}, text/*;q=0", f"*/*, {STREAM};q=0.0", f"{JSON};charset=utf-8;q=0.1"]
STREAM_ONLY = [STREAM, "text/*", f"*/*, {JSON}; q=0", "TEXT/event-stream ; q=0.3"]
BOTH = [f"{JSON}, {STREAM}", "*/*", "application/*;q=0.5, text/*", f"*/*;q=0, {JSON}, {STREAM}"]
WITH_TOKEN = {"progressToken": "p"}


async def read_messages(connection):
    """Return the messages of a stream, and whether it began with a priming event."""
    events = []
    while (event := await connection.read_event()) is not None:
        events.append(event)
    return [event.message for event in events if event.message is not None], events[0].message is None


def stateless_call(tool: str, **arguments) -> tuple[dict, dict[str, str]]:
    """Return a call of the stateless era, and its headers."""
    message = stateless_request("tools/call", 7, name=tool, arguments=arguments)
    return message, {"MCP_Protocol_Version": STATELESS, "Mcp_Method": "tools/call", "Mcp_Name": tool}


@pytest.mark.parametrize("accept", [*JSON_ONLY, *BOTH])
async def test_a_quick_call_of_a_client_that_accepts_json_is_answered_with_json(client, accept):
    session = await client.create_session()
    answer = await client.fetch("POST", "/mcp", session=session, json_body=tool_call(), Accept=accept)
    assert answer.result()["content"][0]["text"] == "hello"


@pytest.mark.parametrize("sections", [{"events": {"stream_after_seconds": 0}}])
@pytest.mark.parametrize("accept", JSON_ONLY)
async def test_a_call_of_a_client_that_accepts_only_json_never_streams(client, hosted, accept):
    session = await client.initialize(capabilities={"elicitation": {}})
    progressing = tool_call("steps", 1, WITH_TOKEN)
    answer = await client.fetch("POST", "/mcp", session=session, json_body=progressing, Accept=accept)
    assert answer.result()["content"][0]["text"] == "done"
    # A question to the client is an error to the tool at once, as with `server.json_responses`.
    asked = await client.fetch("POST", "/mcp", session=session, json_body=tool_call("ask"), Accept=accept)
    assert (asked.status, asked.json()["error"]["code"]) == (200, -32600)
    # Another request of the session still streams.
    opened = await client.open_stream("POST", "/mcp", Mcp_Session_Id=session, json_body=progressing)
    messages, _ = await read_messages(opened)
    assert len(messages) == 3


@pytest.mark.parametrize("sections", [{"events": {"stream_after_seconds": 0}}])
async def test_a_stateless_call_of_a_client_that_accepts_only_json_never_streams(client):
    message, headers = stateless_call("steps")
    message["params"]["_meta"]["progressToken"] = "p"
    answer = await client.fetch("POST", "/mcp", json_body=message, Accept=JSON, **headers)
    assert answer.result()["content"][0]["text"] == "done"


@pytest.mark.parametrize(("version", "primed"), [("2025-06-18", False), ("2025-11-25", True)])
@pytest.mark.parametrize("accept", STREAM_ONLY)
async def test_a_call_of_a_client_that_accepts_only_streams_is_always_streamed(client, version, primed, accept):
    session = await client.initialize(version)
    headers = {"Mcp_Session_Id": session, "Accept": accept}
    opened = await client.open_stream("POST", "/mcp", json_body=tool_call(), **headers)
    messages, was_primed = await read_messages(opened)
    assert [message["result"]["content"][0]["text"] for message in messages] == ["hello"]
    assert was_primed == primed
    opened = await client.open_stream("POST", "/mcp", json_body=tool_call("steps", 2, WITH_TOKEN), **headers)
    messages, _ = await read_messages(opened)
    assert [message.get("method", "answer") for message in messages] == ["notifications/progress"] * 2 + ["answer"]
    # What needs no answer has none, and errors are JSON.
    notification = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
    notified = await client.fetch("POST", "/mcp", session=session, json_body=notification, Accept=accept)
    assert (notified.status, notified.body) == (202, b"")
    malformed = await client.fetch("POST", "/mcp", session=session, body=b"{", Accept=accept)
    malformed.assert_error("PARSE_ERROR")


@pytest.mark.parametrize("accept", STREAM_ONLY)
async def test_a_stateless_call_of_a_client_that_accepts_only_streams_is_always_streamed(client, accept):
    message, headers = stateless_call("echo", text="x")
    opened = await client.open_stream("POST", "/mcp", json_body=message, Accept=accept, **headers)
    messages, was_primed = await read_messages(opened)
    assert ([message["id"] for message in messages], was_primed) == ([7], False)


@pytest.mark.parametrize("sections", [{"sessions": {"mode": "optional"}}])
async def test_a_call_without_a_session_follows_accept(client):
    opened = await client.open_stream("POST", "/mcp", json_body=tool_call(), Accept=STREAM)
    assert len((await read_messages(opened))[0]) == 1
    call = tool_call("steps", 1, WITH_TOKEN)
    answer = await client.fetch("POST", "/mcp", json_body=call, Accept=JSON)
    assert answer.result()["content"][0]["text"] == "done"


@pytest.mark.parametrize("sections", [{"sessions": {"store": "faulty://"}}])
async def test_a_client_that_accepts_only_streams_gets_its_answer_while_the_store_takes_no_events(faults, client):
    session = await client.create_session()
    faults.of["append"] = StoreUnavailable("away")
    opened = await client.open_stream("POST", "/mcp", json_body=tool_call(), Mcp_Session_Id=session, Accept=STREAM)
    event = await opened.read_event()
    assert (event.id, event.message["result"]["content"][0]["text"]) == (None, "hello")
    assert await opened.read_event() is None


@pytest.mark.parametrize("sections", [{"server": {"json_responses": True}}])
async def test_json_responses_refuse_a_client_that_accepts_only_streams(client):
    session = await client.create_session()
    for accept in STREAM_ONLY:
        (await client.fetch("POST", "/mcp", session=session, json_body=PING, Accept=accept)).assert_error(
            "NOT_ACCEPTABLE"
        )
        message, headers = stateless_call("echo", text="x")
        (await client.fetch("POST", "/mcp", json_body=message, Accept=accept, **headers)).assert_error("NOT_ACCEPTABLE")
        assert (await client.fetch("POST", "/mcp", json_body=initialize_request(), Accept=accept)).status == 200


@pytest.mark.parametrize("accept", [*JSON_ONLY, *STREAM_ONLY, *BOTH])
async def test_initialize_is_answered_with_json_whichever_type_is_accepted(client, accept):
    answer = await client.fetch("POST", "/mcp", json_body=initialize_request(), Accept=accept)
    assert answer.result()["protocolVersion"] == "2025-11-25"
    refused = await client.fetch("POST", "/mcp", json_body=initialize_request(), Accept="text/html")
    refused.assert_error("NOT_ACCEPTABLE")


@pytest.mark.parametrize("accept", JSON_ONLY)
async def test_a_subscription_needs_a_stream(client, accept):
    listen = stateless_request("subscriptions/listen", notifications={})
    headers = {"MCP_Protocol_Version": STATELESS, "Mcp_Method": "subscriptions/listen", "Accept": accept}
    (await client.fetch("POST", "/mcp", json_body=listen, **headers)).assert_error("NOT_ACCEPTABLE")


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        *((accept, True) for accept in STREAM_ONLY),
        (f"{JSON}, {STREAM}", True),
        *((accept, False) for accept in (*JSON_ONLY, "*/*", "text/html", f"{STREAM};q=0", "x-text/event-stream")),
        (None, False),
    ],
)
async def test_receive_streams_if_accept_asks_for_a_stream(client, accept, streams):
    session = await client.create_session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=PING)
    headers = {} if accept is None else {"Accept": accept}
    connection = await client.connect()
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Mcp-Session-Id": session, **headers}.items())
    await connection.send(f"GET /mcp/receive HTTP/1.1\r\nHost: {client.host}\r\n{lines}\r\n".encode())
    await connection.read_head()
    assert (connection.status, connection.headers["Content-Type"]) == (200, STREAM if streams else JSON)


@pytest.mark.parametrize(
    ("accept", "accepted"),
    [
        ("a/b", True),
        ("A/B;q=1.000", True),
        ("a/b;q=0", False),
        ("a/b;q=0.000, */*", False),
        ("a/*;q=0, */*", False),
        ("a/*;q=0, a/b", True),
        ("*/*;q=0, a/*", True),
        ("a/b;q=0, a/b", True),
        ('a/c;x=",a/b,"', False),
        ('a/b;x="q=0"', True),
        ('a/b;x="\\",;q=0', True),
        ("a/b;q=", True),
        ("a/b;q=x", True),
        (",,;,", False),
        (None, True),
    ],
)
def test_the_most_specific_range_decides(accept, accepted):
    assert accepts(accept, "a/b") == accepted


def test_a_wildcard_does_not_name_a_type():
    assert names("a/b;q=0.1", "a/b")
    assert not any(names(accept, "a/b") for accept in (None, "a/*", "*/*", "a/b;q=0"))
