"""The errors of the contract: sessions, Accept, protocol revisions, draining and internal errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from mcp_tornado.sessions import DuplicateSession, StoreUnavailable
from tests.web.messages import PING, initialize_request

pytestmark = pytest.mark.gen_test(timeout=60)

FAULTY = {"sessions": {"store": "faulty://"}}
WITH_SESSION = [
    ("POST", "/mcp", PING),
    ("GET", "/mcp", ...),
    ("DELETE", "/mcp", ...),
    ("GET", "/mcp/session", ...),
    ("DELETE", "/mcp/session", ...),
    ("POST", "/mcp/send", PING),
    ("GET", "/mcp/receive", ...),
    ("POST", "/mcp/abort", {"requestId": 1}),
]
ROUTES = [*WITH_SESSION, ("POST", "/mcp/session", ...)]


class MovableClock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> MovableClock:
    clock = MovableClock()
    monkeypatch.setattr("mcp_tornado.app.system_clock", clock)
    return clock


# ---------------------------------------------------------------------- sessions


@pytest.mark.parametrize(("method", "path", "body"), WITH_SESSION)
@pytest.mark.parametrize("sections", [{"sessions": {"idle_timeout_seconds": 60, "touch_interval_seconds": 0}}])
async def test_session_expired(clock, client, method, path, body):
    session = await client.create_session()
    clock.now += timedelta(seconds=59)
    assert (await client.fetch("GET", "/mcp/session", session=session)).status == 200
    clock.now += timedelta(seconds=59)
    # The request before has extended the session.
    assert (await client.fetch("GET", "/mcp/session", session=session)).status == 200
    clock.now += timedelta(seconds=70)
    (await client.fetch(method, path, json_body=body, session=session)).assert_error("SESSION_EXPIRED")


@pytest.mark.parametrize("sections", [{"sessions": {"lifetime_seconds": 100}}])
async def test_session_expires_at_the_end_of_its_lifetime(clock, client):
    session = await client.create_session()
    for _ in range(4):
        clock.now += timedelta(seconds=20)
        assert (await client.call_tool(session)).status == 200
    clock.now += timedelta(seconds=20)
    (await client.call_tool(session)).assert_error("SESSION_EXPIRED")


@pytest.mark.parametrize("sections", [{"sessions": {"max_sessions": 2}}])
async def test_session_limit_reached(client):
    first = await client.create_session()
    await client.initialize()
    (await client.fetch("POST", "/mcp/session")).assert_error("SESSION_LIMIT_REACHED")
    refused = await client.fetch("POST", "/mcp", json_body=initialize_request())
    refused.assert_error("SESSION_LIMIT_REACHED")
    assert "Mcp-Session-Id" not in refused.headers
    await client.fetch("DELETE", "/mcp", session=first)
    await client.create_session()


@pytest.mark.parametrize("sections", [FAULTY])
async def test_session_creation_failed(faults, client):
    faults.of["create"] = DuplicateSession("taken")
    (await client.fetch("POST", "/mcp/session")).assert_error("SESSION_CREATION_FAILED")
    (await client.fetch("POST", "/mcp", json_body=initialize_request())).assert_error("SESSION_CREATION_FAILED")


async def test_second_stream_is_a_session_conflict(client):
    session = await client.create_session()
    await client.open_stream("GET", "/mcp", Mcp_Session_Id=session)
    (await client.fetch("GET", "/mcp", session=session)).assert_error("SESSION_CONFLICT")


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize("sections", [FAULTY])
@pytest.mark.parametrize("fault", [StoreUnavailable("mongodb://user:password@host"), ConnectionResetError(), "hang"])
async def test_store_unavailable(faults, short_store_timeout, client, method, path, body, fault):
    session = await client.create_session()
    faults.set_all(fault)
    answer = await client.fetch(method, path, json_body=body, session=session)
    answer.assert_error("STORE_UNAVAILABLE")
    assert b"password" not in answer.body


async def test_request_not_found(client):
    session = await client.create_session()
    answer = await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 1})
    answer.assert_error("REQUEST_NOT_FOUND")


# ---------------------------------------------------------------------- Accept


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "",
        "x",
        "image/*",
        "application/json;q=0",
        "application/json;q=0, text/*;q=0.000",
        "*/*;q=0",
        "application/*;q=0, text/event-stream; q=0, */*",
        'text/html;a=", application/json"',
    ],
)
async def test_not_acceptable_post(client, accept):
    session = await client.create_session()
    answer = await client.fetch("POST", "/mcp", session=session, json_body=PING, Accept=accept)
    answer.assert_error("NOT_ACCEPTABLE")


@pytest.mark.parametrize(
    "accept",
    [
        "application/json, text/event-stream",
        "text/event-stream,application/json",
        "application/json;q=0.5 , TEXT/Event-Stream;q=1",
        "*/*",
        "application/*, text/*",
        ["application/json", "text/event-stream"],
        None,
    ],
)
async def test_acceptable_post(client, accept):
    answer = await client.open("POST", "/mcp/session", Content_Length="0")
    session = (await answer.read_answer()).session
    if accept is None:
        connection = await client.connect()
        head = f"POST /mcp HTTP/1.1\r\nHost: {client.host}\r\nMcp-Session-Id: {session}\r\n"
        sent = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        body = json.dumps(PING).encode()
        await connection.send(head.encode() + sent % (len(body), body))
        answer = await connection.read_answer()
    else:
        answer = await client.fetch("POST", "/mcp", session=session, json_body=PING, Accept=accept)
    assert answer.result() == {}


@pytest.mark.parametrize("sections", [{"server": {"json_responses": True}}])
async def test_json_alone_is_acceptable_only_where_posts_never_stream(client):
    session = await client.create_session()
    for accept in ("application/json", "application/*", "*/*", "application/json, text/event-stream"):
        answer = await client.fetch("POST", "/mcp", session=session, json_body=PING, Accept=accept)
        assert answer.result() == {}
    for accept in ("text/event-stream", "text/*", ""):
        answer = await client.fetch("POST", "/mcp", session=session, json_body=PING, Accept=accept)
        answer.assert_error("NOT_ACCEPTABLE")


@pytest.mark.parametrize("accept", ["application/json", "text/html", ""])
async def test_not_acceptable_get(client, accept):
    session = await client.create_session()
    (await client.fetch("GET", "/mcp", session=session, Accept=accept)).assert_error("NOT_ACCEPTABLE")


# ---------------------------------------------------------------------- protocol revisions


HANDSHAKE = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize("version", ["garbage", "", "2025-11-26", "1", "2025-11-25 x", ["2025-11-25", "2025-06-18"]])
async def test_unsupported_protocol_version(client, method, path, body, version):
    session = await client.create_session()
    answer = await client.fetch(method, path, json_body=body, session=session, MCP_Protocol_Version=version)
    error = answer.assert_error("UNSUPPORTED_PROTOCOL_VERSION")
    assert set(HANDSHAKE) <= set(error["data"]["supported"])


@pytest.mark.parametrize("version", [None, *HANDSHAKE])
async def test_supported_protocol_version_is_served_on_every_route(client, version):
    session = await client.create_session()
    for method, path, body in WITH_SESSION:
        if method != "DELETE" and (method, path) != ("GET", "/mcp"):
            answer = await client.fetch(method, path, json_body=body, session=session, MCP_Protocol_Version=version)
            assert answer.status in (200, 202) or path == "/mcp/abort", (method, path, answer.body)
            if path == "/mcp/abort":
                answer.assert_error("REQUEST_NOT_FOUND")


@pytest.mark.parametrize("version", HANDSHAKE)
async def test_session_of_every_revision_is_served(client, version):
    session = await client.initialize(version)
    called = await client.fetch(
        "POST",
        "/mcp",
        session=session,
        MCP_Protocol_Version=version,
        json_body={"jsonrpc": "2.0", "id": 5, "method": "tools/list"},
    )
    assert "echo" in {tool["name"] for tool in called.result()["tools"]}


async def test_the_stateless_revision_has_neither_get_nor_delete(client):
    session = await client.create_session()
    for method in ("GET", "DELETE"):
        for given in ({}, {"session": session}):
            answer = await client.fetch(method, "/mcp", MCP_Protocol_Version="2026-07-28", **given)
            answer.assert_error("METHOD_NOT_ALLOWED")
            assert answer.headers["Allow"] == "POST, OPTIONS"
    assert (await client.fetch("GET", "/mcp/session", session=session)).status == 200  # DELETE has not ended it


@pytest.mark.parametrize(("method", "path", "body"), [row for row in WITH_SESSION if row[1] != "/mcp"])
async def test_the_stateless_revision_has_no_sessions(client, method, path, body):
    session = await client.create_session()
    answer = await client.fetch(method, path, json_body=body, session=session, MCP_Protocol_Version="2026-07-28")
    answer.assert_error("UNSUPPORTED_PROTOCOL_VERSION")


# ---------------------------------------------------------------------- draining and internal errors


async def test_server_draining(app, client):
    session = await client.create_session()
    await app.drain(0)
    answers = [
        await client.fetch("POST", "/mcp", session=session, json_body=PING),
        await client.fetch("POST", "/mcp", json_body=initialize_request()),
        await client.fetch("GET", "/mcp", session=session),
        await client.fetch("POST", "/mcp/send", session=session, json_body=PING),
        await client.fetch("POST", "/mcp/session"),
        await client.fetch("GET", "/mcp/receive", session=session, Accept="text/event-stream"),
        await client.fetch("GET", "/mcp/receive?wait=30", session=session),
        await client.fetch("GET", "/readyz"),
    ]
    for answer in answers:
        answer.assert_error("SERVER_DRAINING")
    # A kept-alive connection is closed, because the client's next connection may reach another process.
    answer = await (await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=PING)).read_answer()
    answer.assert_error("SERVER_DRAINING")
    assert answer.headers["Connection"] == "close"
    assert (await client.fetch("GET", "/healthz")).status == 200
    assert (await client.fetch("GET", "/metrics")).status == 200
    # The client can still end its session.
    assert (await client.fetch("DELETE", "/mcp", session=session)).status == 204


async def test_answers_from_before_a_drain_can_still_be_read(app, client):
    """A poll that finds no event is refused: it would not wait, and its client would poll again at once."""
    session = await client.create_session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=PING)
    answered = (await client.fetch("GET", "/mcp/receive?wait=30", session=session)).json()
    await app.drain(0)
    assert (await client.fetch("GET", "/mcp/receive?wait=30", session=session)).json() == answered
    after = f"/mcp/receive?wait=30&after={answered['after']}"
    (await client.fetch("GET", after, session=session)).assert_error("SERVER_DRAINING")


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
@pytest.mark.parametrize("sections", [FAULTY])
async def test_internal_error_does_not_show_its_cause(faults, client, method, path, body):
    session = await client.create_session()
    faults.set_all(ZeroDivisionError("a secret at /etc/passwd"))
    answer = await client.fetch(method, path, json_body=body, session=session)
    answer.assert_error("INTERNAL_ERROR")
    for word in (b"secret", b"passwd", b"ZeroDivision", b"Traceback", b".py"):
        assert word not in answer.body


@pytest.mark.parametrize("sections", [FAULTY])
async def test_internal_error_of_a_handshake_does_not_show_its_cause(faults, client):
    faults.of["create"] = ZeroDivisionError("a secret")
    answer = await client.fetch("POST", "/mcp", json_body=initialize_request())
    assert b"secret" not in answer.body
    assert "Mcp-Session-Id" not in answer.headers
    answer.assert_error("INTERNAL_ERROR")


async def test_tool_error_is_answered_as_by_the_sdk(client):
    session = await client.create_session()
    answer = await client.call_tool(session, "fail")
    assert answer.status == 200
    assert answer.json()["result"]["isError"] is True


async def test_errors_of_the_sdk_are_unchanged(client):
    session = await client.create_session()
    unknown = await client.fetch(
        "POST", "/mcp", session=session, json_body={"jsonrpc": "2.0", "id": "a", "method": "no/such"}
    )
    assert unknown.status == 200
    assert unknown.json() == {
        "jsonrpc": "2.0",
        "id": "a",
        "error": {"code": -32601, "message": "Method not found", "data": "no/such"},
    }
    invalid = await client.fetch(
        "POST", "/mcp", session=session, json_body={"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {}}
    )
    assert invalid.status == 200
    assert (invalid.json()["id"], invalid.json()["error"]["code"]) == (3, -32602)
