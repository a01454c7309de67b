"""Bodies and connections: the limit, and what happens to a connection after an error."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

pytestmark = pytest.mark.gen_test

LIMITED = {"server": {"max_body_bytes": 1000}}
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


def post(client, path: str, *headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {client.host}",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def padded(size: int) -> bytes:
    """Return a ping of a size."""
    return PING[:-1] + b" " * (size - len(PING)) + b"}"


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def talk(client, data: bytes, *, patient: bool = False) -> bytes:
    """Send all, then read what comes first, as simple clients do; a patient one reads even if it could not send all."""
    host, _, port = client.host.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=4) as connection:
        try:
            connection.sendall(data)
        except ConnectionError:
            if not patient:
                raise
        return connection.recv(65_536)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/session", "/mcp/send", "/mcp/abort"])
@pytest.mark.parametrize("declared", [1001, 200_000_000, 10**30])
@pytest.mark.parametrize("sections", [LIMITED])
async def test_a_body_declared_too_large_is_refused_before_it_is_sent(client, path, declared):
    session = await client.session()
    connection = await client.connect()
    await connection.send(post(client, path, f"Mcp-Session-Id: {session}", f"Content-Length: {declared}"))
    answer = await connection.answer()
    answer.assert_error("PAYLOAD_TOO_LARGE")
    assert answer.headers["Connection"] == "close"


@pytest.mark.parametrize("sections", [LIMITED])
async def test_a_length_of_thousands_of_digits(client):
    connection = await client.connect()
    await connection.send(post(client, "/mcp", f"Content-Length: {'9' * 5000}"))
    (await connection.answer()).assert_error("PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("sections", [LIMITED])
async def test_a_client_that_sends_a_body_too_large_anyway_sees_the_answer(client):
    """It does not look for an answer before all is sent; the connection must not be reset under it."""
    session = await client.session()
    body = padded(20_000_000)
    head = post(client, "/mcp", f"Mcp-Session-Id: {session}", f"Content-Length: {len(body)}")
    got = await asyncio.to_thread(talk, client, head + body, patient=True)
    assert got.startswith(b"HTTP/1.1 413 ")
    assert b"PAYLOAD_TOO_LARGE" in got


@pytest.mark.parametrize("size", [10, 600, 5000])
@pytest.mark.parametrize("sections", [LIMITED])
async def test_a_body_in_chunks_that_is_too_large(client, size):
    session = await client.session()
    connection = await client.connect()
    head = post(client, "/mcp", f"Mcp-Session-Id: {session}", "Transfer-Encoding: chunked")
    await connection.send(head + chunked(padded(5000), size))
    answer = await connection.answer()
    answer.assert_error("PAYLOAD_TOO_LARGE")
    if answer.headers.get("Connection") == "close":
        assert await connection.closed()  # what is said is done
    else:
        await connection.send(post(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 40") + PING)
        assert (await connection.answer()).result() == {}


@pytest.mark.parametrize("sections", [LIMITED])
async def test_a_body_of_just_the_limit_passes(client):
    session = await client.session()
    connection = await client.connect()
    await connection.send(post(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 1000") + padded(1000))
    assert (await connection.answer()).result() == {}
    await connection.send(
        post(client, "/mcp", f"Mcp-Session-Id: {session}", "Transfer-Encoding: chunked") + chunked(padded(1000), 300)
    )
    assert (await connection.answer()).result() == {}
    await connection.send(post(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 40") + PING)
    assert (await connection.answer()).result() == {}


@pytest.mark.parametrize("path", ["/mcp", "/mcp/session", "/mcp/send", "/mcp/abort"])
@pytest.mark.parametrize("sections", [LIMITED])
async def test_one_byte_above_the_limit_does_not_pass(client, path):
    session = await client.session()
    (await client.fetch("POST", path, session=session, body=padded(1001))).assert_error("PAYLOAD_TOO_LARGE")
    connection = await client.connect()
    head = post(client, path, f"Mcp-Session-Id: {session}", "Transfer-Encoding: chunked")
    await connection.send(head + chunked(padded(1001), 1000))
    (await connection.answer()).assert_error("PAYLOAD_TOO_LARGE")


async def test_a_client_that_waits_for_100_continue(client):
    session = await client.session()
    connection = await client.connect()
    head = post(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 40", "Expect: 100-continue")
    await connection.send(head)
    assert await connection.head() == 100
    await connection.send(PING)
    assert (await connection.answer()).result() == {}


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
async def test_after_an_error_the_connection_is_usable_or_said_to_be_closed(client, request_line, session):
    """Clients reuse connections: one that is closed without a word costs them the next request."""
    connection = await client.connect()
    named = "" if session is None else f"Mcp-Session-Id: {session}\r\n"
    await connection.send(f"{request_line} HTTP/1.1\r\nHost: {client.host}\r\n{named}\r\n".encode())
    answer = await connection.answer()
    assert 400 <= answer.status < 500
    if answer.headers.get("Connection", "").lower() != "close":
        await connection.send(f"GET /healthz HTTP/1.1\r\nHost: {client.host}\r\n\r\n".encode())
        assert (await connection.answer()).json() == {"status": "ok"}


async def test_after_a_dead_session_the_handshake_goes_over_the_same_connection(client, helpers):
    """That is what the official clients do: 404, and at once a new `initialize`."""
    connection = await client.connect()
    await connection.send(post(client, "/mcp", "Mcp-Session-Id: dead", "Content-Length: 40") + PING)
    answer = await connection.answer()
    answer.assert_error("SESSION_NOT_FOUND")
    assert "Connection" not in answer.headers
    body = json.dumps(helpers.initialize()).encode()
    await connection.send(post(client, "/mcp", f"Content-Length: {len(body)}") + body)
    assert (await connection.answer()).result()["protocolVersion"] == "2025-11-25"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (["Mcp-Session-Id: dead"], "SESSION_NOT_FOUND"),
        (["Mcp-Session-Id: dead", "MCP-Protocol-Version: x"], "UNSUPPORTED_PROTOCOL_VERSION"),
        (["Origin: http://evil.example"], "FORBIDDEN_ORIGIN"),
    ],
)
async def test_an_error_reaches_a_client_that_still_sends(client, headers, code):
    """A body within the limit is read even where the head settles the answer: closing over it would reset."""
    body = padded(4_000_000)
    got = await asyncio.to_thread(talk, client, post(client, "/mcp", *headers, f"Content-Length: {len(body)}") + body)
    assert code.encode() in got


async def test_pipelined_requests_are_answered_in_order(client):
    session = await client.session()
    connection = await client.connect()
    one = post(client, "/mcp", f"Mcp-Session-Id: {session}", "Content-Length: 40")
    await connection.send(b"".join(one + PING.replace(b"1,", b"%d," % number) for number in (1, 2, 3)))
    assert [(await connection.answer()).json()["id"] for _ in range(3)] == [1, 2, 3]


async def test_a_client_that_hangs_up_in_the_middle_of_a_body_harms_nobody(client):
    session = await client.session()
    for path in ("/mcp", "/mcp/session", "/mcp/send"):
        connection = await client.connect()
        await connection.send(post(client, path, f"Mcp-Session-Id: {session}", "Content-Length: 400") + PING)
        connection.close()
        await connection.writer.wait_closed()
    assert (await client.call(session)).status == 200


async def test_a_call_outlives_the_connection_that_brought_it(client, hosted, helpers):
    """Handshake era: the client comes back for the answer."""
    session = await client.session()
    connection = await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=helpers.tool_call("wait"))
    await hosted.started.wait()
    connection.close()
    await connection.writer.wait_closed()
    assert (await client.call(session)).status == 200
    hosted.release.set()
    while not hosted.finished:
        await asyncio.sleep(0)
    assert hosted.finished == ["released"]


@pytest.mark.parametrize("sections", [{"sessions": {"store": "faulty://"}}])
async def test_a_client_that_hangs_up_while_its_session_is_looked_up_holds_nothing_up(
    faults, app, client, hosted, helpers
):
    """Nobody reads what the call says: it must not wait for a reader."""
    session = await client.session()
    connection = await client.connect()
    faults.calls.clear()
    faults.of["get"] = looked_up = asyncio.Event()
    body = json.dumps(helpers.tool_call("chatter", meta={"progressToken": 1})).encode()
    await connection.send(post(client, "/mcp", f"Mcp-Session-Id: {session}", f"Content-Length: {len(body)}") + body)
    while "get" not in faults.calls:
        await asyncio.sleep(0)
    connection.close()
    await connection.writer.wait_closed()
    # Nearly always the server notices now. Where it does only when it writes, that must do no harm either.
    await app.settings["mcp_tornado"].active.finished(1)
    looked_up.set()
    while not hosted.finished:
        await asyncio.sleep(0)
    assert hosted.finished == ["chattered"]


@pytest.mark.parametrize("sections", [{"sessions": {"store": "faulty://"}, "events": {"stream_after_seconds": 0}}])
async def test_a_cancelled_calls_stream_is_resumed_before_its_answer_is_stored(faults, client, hosted, helpers):
    session = await client.session()
    first = await client.stream("POST", "/mcp", Mcp_Session_Id=session, json_body=helpers.tool_call("wait"))
    priming = await first.event()
    first.close()
    await hosted.started.wait()
    faults.of["append"] = stored = asyncio.Event()
    assert (await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 1})).status == 202
    while hosted.finished != ["cancelled"]:
        await asyncio.sleep(0)
    resumed = await client.stream("GET", "/mcp", Mcp_Session_Id=session, Last_Event_ID=priming.id)
    stored.set()
    answer = await resumed.event()
    assert (answer.message["id"], answer.message["error"]["code"]) == (1, -32800)
    assert await resumed.event() is None
