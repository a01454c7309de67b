"""Body sizes, connections after an error, and clients that disconnect."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from tests.web.messages import initialize_request, tool_call

pytestmark = pytest.mark.gen_test(timeout=60)

LIMITED = {"server": {"max_body_bytes": 1000}}
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


def post_head(client, path: str, *headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {client.host}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def padded(size: int) -> bytes:
    """Return a ping of `size` bytes."""
    return PING[:-1] + b" " * (size - len(PING)) + b"}"


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def send_then_read(client, data: bytes, *, reads_after_reset: bool = False) -> bytes:
    """Send everything and then read once, as simple clients do.

    Args:
        client: The client, for the address.
        data: What is sent.
        reads_after_reset: Whether to read even if the server closes the connection while this sends.
    """
    host, _, port = client.host.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            connection.sendall(data)
        except ConnectionError:
            if not reads_after_reset:
                raise
        return connection.recv(65_536)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/session", "/mcp/send", "/mcp/abort"])
@pytest.mark.parametrize("declared", [1001, 200_000_000, 10**30])
@pytest.mark.parametrize("sections", [LIMITED])
async def test_body_declared_too_large_is_refused_before_it_is_sent(client, path, declared):
    session = await client.create_session()
    connection = await client.connect()
    await connection.send(post_head(client, path, f"Mcp-Session-Id: {session}", f"Content-Length: {declared}"))
    answer = await connection.read_answer()
    answer.assert_error("PAYLOAD_TOO_LARGE")
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("sections", [LIMITED])
async def test_length_of_thousands_of_digits_is_too_large(client):
    connection = await client.connect()
    await connection.send(post_head(client, "/mcp", f"Content-Length: {'9' * 5000}"))
    (await connection.read_answer()).assert_error("PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("sections", [LIMITED])
async def test_client_that_sends_a_too_large_body_anyway_sees_the_answer(client):
    """The client reads only after it has sent everything, so the connection must not be reset before."""
    session = await client.create_session()
    body = padded(20_000_000)
    head = post_head(client, "/mcp", f"Mcp-Session-Id: {session}", f"Content-Length: {len(body)}")
    response = await asyncio.to_thread(send_then_read, client, head + body, reads_after_reset=True)
    assert response.startswith(b"HTTP/1.1 413 ")
    assert b"PAYLOAD_TOO_LARGE" in response


@pytest.mark.parametrize("size", [10, 600, 5000])
@pytest.mark.parametrize("sections", [LIMITED])
async def test_chunked_body_that_is_too_large_is_refused(client, size):
    session = await client.create_session()
    connection = await client.connect()
    head = post_head(client, "/mcp", f"Mcp-Session-Id: {session}", "Transfer-Encoding: chunked")
    await connection.send(head + chunked(padded(5000), size))
    answer = await connection.read_answer()
    answer.assert_error("PAYLOAD_TOO_LARGE")
    if answer.headers.get("Connection") == "close":
        assert await connection.is_closed()
    else:
        await connection.send(post_head(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 40") + PING)
        assert (await connection.read_answer()).result() == {}


@pytest.mark.parametrize("sections", [LIMITED])
async def test_body_of_exactly_the_limit_is_accepted(client):
    session = await client.create_session()
    connection = await client.connect()
    await connection.send(
        post_head(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 1000") + padded(1000)
    )
    assert (await connection.read_answer()).result() == {}
    await connection.send(
        post_head(client, "/mcp", f"Mcp-Session-Id: {session}", "Transfer-Encoding: chunked")
        + chunked(padded(1000), 300)
    )
    assert (await connection.read_answer()).result() == {}
    await connection.send(post_head(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 40") + PING)
    assert (await connection.read_answer()).result() == {}


@pytest.mark.parametrize("path", ["/mcp", "/mcp/session", "/mcp/send", "/mcp/abort"])
@pytest.mark.parametrize("sections", [LIMITED])
async def test_body_one_byte_above_the_limit_is_refused(client, path):
    session = await client.create_session()
    (await client.fetch("POST", path, session=session, body=padded(1001))).assert_error("PAYLOAD_TOO_LARGE")
    connection = await client.connect()
    head = post_head(client, path, f"Mcp-Session-Id: {session}", "Transfer-Encoding: chunked")
    await connection.send(head + chunked(padded(1001), 1000))
    (await connection.read_answer()).assert_error("PAYLOAD_TOO_LARGE")


async def test_client_that_waits_for_continue_is_answered(client):
    session = await client.create_session()
    connection = await client.connect()
    head = post_head(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 40", "Expect: 100-continue")
    await connection.send(head)
    assert await connection.read_head() == 100
    await connection.send(PING)
    assert (await connection.read_answer()).result() == {}


@pytest.mark.parametrize(
    ("request_line", "session"),
    [
        ("GET /mcp", None),
        ("DELETE /mcp", "unknown"),
        ("GET /mcp/session", None),
        ("GET /mcp/receive", "unknown"),
        ("PUT /mcp", None),
        ("GET /nowhere", None),
        ("BREW /mcp", None),
    ],
)
async def test_connection_after_an_error_is_usable_or_announced_as_closed(client, request_line, session):
    """A client reuses its connection. If the server closes it without `Connection: close`, the next request fails."""
    connection = await client.connect()
    header = "" if session is None else f"Mcp-Session-Id: {session}\r\n"
    await connection.send(f"{request_line} HTTP/1.1\r\nHost: {client.host}\r\n{header}\r\n".encode())
    answer = await connection.read_answer()
    assert 400 <= answer.status < 500
    if answer.headers.get("Connection", "").lower() != "close":
        await connection.send(f"GET /healthz HTTP/1.1\r\nHost: {client.host}\r\n\r\n".encode())
        assert (await connection.read_answer()).json() == {"status": "ok"}


async def test_handshake_after_a_dead_session_uses_the_same_connection(client):
    """The official clients send a new `initialize` at once after a 404."""
    connection = await client.connect()
    await connection.send(post_head(client, "/mcp", "Mcp-Session-Id: dead", "Content-Length: 40") + PING)
    answer = await connection.read_answer()
    answer.assert_error("SESSION_NOT_FOUND")
    assert "Connection" not in answer.headers
    body = json.dumps(initialize_request()).encode()
    await connection.send(post_head(client, "/mcp", f"Content-Length: {len(body)}") + body)
    assert (await connection.read_answer()).result()["protocolVersion"] == "2025-11-25"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (["Mcp-Session-Id: dead"], "SESSION_NOT_FOUND"),
        (["Mcp-Session-Id: dead", "MCP-Protocol-Version: x"], "UNSUPPORTED_PROTOCOL_VERSION"),
        (["Origin: http://evil.example"], "FORBIDDEN_ORIGIN"),
    ],
)
async def test_error_reaches_a_client_that_still_sends(client, headers, code):
    """A body within the limit is read even if the head decides the answer; closing would reset the connection."""
    body = padded(4_000_000)
    response = await asyncio.to_thread(
        send_then_read, client, post_head(client, "/mcp", *headers, f"Content-Length: {len(body)}") + body
    )
    assert code.encode() in response


async def test_pipelined_requests_are_answered_in_order(client):
    session = await client.create_session()
    connection = await client.connect()
    request_head = post_head(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 40")
    await connection.send(b"".join(request_head + PING.replace(b"1,", b"%d," % number) for number in (1, 2, 3)))
    assert [(await connection.read_answer()).json()["id"] for _ in range(3)] == [1, 2, 3]


async def test_disconnect_within_a_body_does_not_affect_other_requests(client):
    session = await client.create_session()
    for path in ("/mcp", "/mcp/session", "/mcp/send"):
        connection = await client.connect()
        await connection.send(post_head(client, path, f"Mcp-Session-Id: {session}", "Content-Length: 400") + PING)
        connection.close()
        await connection.wait_closed()
    assert (await client.call_tool(session)).status == 200


async def test_call_outlives_its_connection(client, hosted):
    """In the handshake era a client may reconnect and read the answer."""
    session = await client.create_session()
    connection = await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("wait"))
    await hosted.wait_until_started()
    connection.close()
    await connection.wait_closed()
    assert (await client.call_tool(session)).status == 200
    hosted.release.set()
    await hosted.wait_until_ended()
    assert hosted.outcomes == ["released"]


@pytest.mark.parametrize("sections", [{"sessions": {"store": "faulty://"}}])
async def test_call_of_a_client_that_disconnected_during_the_session_check_ends(faults, app, client, hosted):
    """No client reads the messages of the call, so it must not wait until they are read."""
    session = await client.create_session()
    connection = await client.connect()
    faults.clear_calls()
    faults.of["get"] = session_read = asyncio.Event()
    body = json.dumps(tool_call("chatter", meta={"progressToken": 1})).encode()
    await connection.send(
        post_head(client, "/mcp", f"Mcp-Session-Id: {session}", f"Content-Length: {len(body)}") + body
    )
    await faults.wait_for_call("get")
    connection.close()
    await connection.wait_closed()
    # The server notices the disconnect now, or in rare cases when it writes. The call must end in both cases.
    await app.settings["mcp_tornado"].active.wait_until_answered(1)
    session_read.set()
    await hosted.wait_until_ended()
    assert hosted.outcomes == ["chattered"]


@pytest.mark.parametrize("sections", [{"sessions": {"store": "faulty://"}, "events": {"stream_after_seconds": 0}}])
async def test_stream_of_a_cancelled_call_is_resumed_before_its_answer_is_stored(faults, client, hosted):
    session = await client.create_session()
    first = await client.open_stream("POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("wait"))
    priming = await first.read_event()
    first.close()
    await hosted.wait_until_started()
    faults.of["append"] = stored = asyncio.Event()
    assert (await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 1})).status == 202
    await hosted.wait_until_ended()
    assert hosted.outcomes == ["cancelled"]
    resumed = await client.open_stream("GET", "/mcp", Mcp_Session_Id=session, Last_Event_ID=priming.id)
    stored.set()
    answer = await resumed.read_event()
    assert (answer.message["id"], answer.message["error"]["code"]) == (1, -32800)
    assert await resumed.read_event() is None
