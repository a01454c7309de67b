"""Every error of the contract's table that this application can answer with."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from mcp_tornado.sessions import DuplicateSession, StoreUnavailable

pytestmark = pytest.mark.gen_test

FAULTY = {"sessions": {"store": "faulty://"}}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
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
ALL = [*WITH_SESSION, ("POST", "/mcp/session", ...)]
JSON_BODIES = [("POST", "/mcp"), ("POST", "/mcp/send"), ("POST", "/mcp/abort"), ("POST", "/mcp/session")]


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("mcp_tornado.app.system_clock", clock)
    return clock


# ---------------------------------------------------------------------- sessions


@pytest.mark.parametrize(("method", "path", "body"), WITH_SESSION)
@pytest.mark.parametrize("sections", [{"sessions": {"idle_timeout_seconds": 60, "touch_interval_seconds": 0}}])
async def test_session_expired(clock, client, method, path, body):
    session = await client.session()
    clock.now += timedelta(seconds=59)
    assert (await client.fetch("GET", "/mcp/session", session=session)).status == 200
    clock.now += timedelta(seconds=59)
    assert (await client.fetch("GET", "/mcp/session", session=session)).status == 200  # it was in use
    clock.now += timedelta(seconds=70)
    (await client.fetch(method, path, json_body=body, session=session)).assert_error("SESSION_EXPIRED")


@pytest.mark.parametrize("sections", [{"sessions": {"lifetime_seconds": 100}}])
async def test_session_expired_at_the_end_of_its_lifetime(clock, client):
    session = await client.session()
    for _ in range(4):
        clock.now += timedelta(seconds=20)
        assert (await client.call(session)).status == 200
    clock.now += timedelta(seconds=20)
    (await client.call(session)).assert_error("SESSION_EXPIRED")


@pytest.mark.parametrize("sections", [{"sessions": {"max_sessions": 2}}])
async def test_session_limit_reached(client, helpers):
    first = await client.session()
    await client.initialize()
    (await client.fetch("POST", "/mcp/session")).assert_error("SESSION_LIMIT_REACHED")
    refused = await client.fetch("POST", "/mcp", json_body=helpers.initialize())
    refused.assert_error("SESSION_LIMIT_REACHED")
    assert "Mcp-Session-Id" not in refused.headers
    await client.fetch("DELETE", "/mcp", session=first)
    await client.session()


@pytest.mark.parametrize("sections", [FAULTY])
async def test_session_creation_failed(faults, client, helpers):
    faults.of["create"] = DuplicateSession("taken")
    (await client.fetch("POST", "/mcp/session")).assert_error("SESSION_CREATION_FAILED")
    (await client.fetch("POST", "/mcp", json_body=helpers.initialize())).assert_error("SESSION_CREATION_FAILED")


async def test_session_conflict_of_two_streams(client):
    session = await client.session()
    await client.stream("GET", "/mcp", Mcp_Session_Id=session)
    (await client.fetch("GET", "/mcp", session=session)).assert_error("SESSION_CONFLICT")


@pytest.mark.parametrize(("method", "path", "body"), ALL)
@pytest.mark.parametrize("sections", [FAULTY])
@pytest.mark.parametrize("fault", [StoreUnavailable("mongodb://user:password@host"), ConnectionResetError(), "hang"])
async def test_store_unavailable(faults, short_time_limit, client, method, path, body, fault):
    session = await client.session()
    faults.all(fault)
    answer = await client.fetch(method, path, json_body=body, session=session)
    answer.assert_error("STORE_UNAVAILABLE")
    assert b"password" not in answer.body


async def test_request_not_found(client):
    session = await client.session()
    answer = await client.fetch("POST", "/mcp/abort", session=session, json_body={"requestId": 1})
    answer.assert_error("REQUEST_NOT_FOUND")


# ---------------------------------------------------------------------- bodies


BAD_JSON = {
    "no-json": b"{",
    "two-values": b"{}{}",
    "not-utf-8": b'"\xff"',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "bom": b'\xef\xbb\xbf{"jsonrpc": "2.0"}',
    "nan": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "surrogate": rb'{"a": "\ud800"}',
    "too-deep": b"[" * 5000 + b"]" * 5000,
    "blank": b"  ",
    "form": b"a=1&b=2",
    "gzip": b"\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize(("method", "path"), JSON_BODIES)
@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
async def test_parse_error(client, method, path, body):
    session = await client.session()
    error = (await client.fetch(method, path, session=session, body=body)).assert_error("PARSE_ERROR")
    assert error["code"] == -32700


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
async def test_parse_error_without_a_session(client, body):
    (await client.fetch("POST", "/mcp", body=body)).assert_error("PARSE_ERROR")


async def test_parse_error_of_an_empty_body(client):
    session = await client.session()
    for path in ("/mcp", "/mcp/send", "/mcp/abort"):
        (await client.fetch("POST", path, session=session)).assert_error("PARSE_ERROR")


BAD_MESSAGES = {
    "text": "text",
    "null": None,
    "number": 1,
    "empty": {},
    "no-version": {"id": 1, "method": "ping"},
    "other-version": {"jsonrpc": "1.0", "id": 1, "method": "ping"},
    "number-version": {"jsonrpc": 2.0, "id": 1, "method": "ping"},
    "no-method": {"jsonrpc": "2.0", "id": 1},
    "number-method": {"jsonrpc": "2.0", "id": 1, "method": 1},
    "list-params": {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
    "text-params": {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": "x"},
    "null-id": {"jsonrpc": "2.0", "id": None, "method": "ping"},
    "true-id": {"jsonrpc": "2.0", "id": True, "method": "ping"},
    "fraction-id": {"jsonrpc": "2.0", "id": 1.5, "method": "ping"},
    "object-id": {"jsonrpc": "2.0", "id": {}, "method": "ping"},
    "result-and-error": {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": ""}},
    "text-result": {"jsonrpc": "2.0", "id": 1, "result": "x"},
    "text-error": {"jsonrpc": "2.0", "id": 1, "error": "x"},
    "text-code": {"jsonrpc": "2.0", "id": 1, "error": {"code": "1", "message": ""}},
    "no-message": {"jsonrpc": "2.0", "id": 1, "error": {"code": 1}},
    "batch": [PING],
    "empty-batch": [],
}


@pytest.mark.parametrize("path", ["/mcp", "/mcp/send"])
@pytest.mark.parametrize("body", BAD_MESSAGES.values(), ids=BAD_MESSAGES.keys())
async def test_invalid_request(client, path, body):
    session = await client.session()
    (await client.fetch("POST", path, session=session, json_body=body)).assert_error("INVALID_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        {"jsonrpc": "1.0", "id": 1, "method": "initialize", "params": {}},
        {"id": 1, "method": "initialize", "params": {}},
        {"jsonrpc": "2.0", "id": None, "method": "initialize", "params": {}},
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": []},
    ],
)
async def test_invalid_request_of_a_handshake(client, body):
    (await client.fetch("POST", "/mcp", json_body=body)).assert_error("INVALID_REQUEST")
    session = await client.session()
    (await client.fetch("POST", "/mcp", session=session, json_body=body)).assert_error("INVALID_REQUEST")


@pytest.mark.parametrize(
    "body",
    [[], {}, None, 1, "1", {"id": 1}, {"requestId": None}, {"requestId": True}, {"requestId": 1.5}, {"requestId": [1]}],
)
async def test_invalid_request_to_abort(client, body):
    session = await client.session()
    (await client.fetch("POST", "/mcp/abort", session=session, json_body=body)).assert_error("INVALID_REQUEST")


@pytest.mark.parametrize(("method", "path"), JSON_BODIES)
@pytest.mark.parametrize(
    "media_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json", "*/*"]
)
async def test_unsupported_media_type(client, method, path, media_type):
    session = await client.session()
    answer = await client.open(
        method,
        path,
        Mcp_Session_Id=session,
        Content_Length="2",
        **{} if media_type is None else {"Content-Type": media_type},
    )
    await answer.send(b"{}")
    (await answer.answer()).assert_error("UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"])
async def test_json_under_any_of_its_spellings(client, media_type):
    session = await client.session()
    answer = await client.fetch("POST", "/mcp", session=session, json_body=PING, Content_Type=media_type)
    assert answer.result() == {}


# ---------------------------------------------------------------------- Accept


@pytest.mark.parametrize(
    "accept", ["application/json", "text/event-stream", "text/html", "", "application/*", "text/*", "x"]
)
async def test_not_acceptable_post(client, accept):
    session = await client.session()
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
async def test_acceptable_post(client, accept, helpers):
    answer = await client.open("POST", "/mcp/session", Content_Length="0")
    session = (await answer.answer()).session
    if accept is None:
        connection = await client.connect()
        head = f"POST /mcp HTTP/1.1\r\nHost: {client.host}\r\nMcp-Session-Id: {session}\r\n"
        sent = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        body = json.dumps(PING).encode()
        await connection.send(head.encode() + sent % (len(body), body))
        answer = await connection.answer()
    else:
        answer = await client.fetch("POST", "/mcp", session=session, json_body=PING, Accept=accept)
    assert answer.result() == {}


@pytest.mark.parametrize("sections", [{"server": {"json_responses": True}}])
async def test_json_alone_is_acceptable_only_where_posts_never_stream(client):
    session = await client.session()
    for accept in ("application/json", "application/*", "*/*", "application/json, text/event-stream"):
        answer = await client.fetch("POST", "/mcp", session=session, json_body=PING, Accept=accept)
        assert answer.result() == {}
    for accept in ("text/event-stream", "text/*", ""):
        answer = await client.fetch("POST", "/mcp", session=session, json_body=PING, Accept=accept)
        answer.assert_error("NOT_ACCEPTABLE")


@pytest.mark.parametrize("accept", ["application/json", "text/html", ""])
async def test_not_acceptable_get(client, accept):
    session = await client.session()
    (await client.fetch("GET", "/mcp", session=session, Accept=accept)).assert_error("NOT_ACCEPTABLE")


# ---------------------------------------------------------------------- revisions of the protocol


HANDSHAKE = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]


@pytest.mark.parametrize(("method", "path", "body"), ALL)
@pytest.mark.parametrize("version", ["garbage", "", "2025-11-26", "1", "2025-11-25 x", ["2025-11-25", "2025-06-18"]])
async def test_unsupported_protocol_version(client, method, path, body, version):
    session = await client.session()
    answer = await client.fetch(method, path, json_body=body, session=session, MCP_Protocol_Version=version)
    error = answer.assert_error("UNSUPPORTED_PROTOCOL_VERSION")
    assert set(HANDSHAKE) <= set(error["data"]["supported"])


@pytest.mark.parametrize("version", [None, *HANDSHAKE])
async def test_supported_protocol_versions(client, version):
    session = await client.session()
    for method, path, body in WITH_SESSION:
        if method != "DELETE" and (method, path) != ("GET", "/mcp"):
            answer = await client.fetch(method, path, json_body=body, session=session, MCP_Protocol_Version=version)
            assert answer.status in (200, 202) or path == "/mcp/abort", (method, path, answer.body)
            if path == "/mcp/abort":
                answer.assert_error("REQUEST_NOT_FOUND")


@pytest.mark.parametrize("version", HANDSHAKE)
async def test_a_session_of_every_revision(client, version):
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
    session = await client.session()
    for method in ("GET", "DELETE"):
        for given in ({}, {"session": session}):
            answer = await client.fetch(method, "/mcp", MCP_Protocol_Version="2026-07-28", **given)
            answer.assert_error("METHOD_NOT_ALLOWED")
            assert answer.headers["Allow"] == "POST, OPTIONS"
    assert (await client.fetch("GET", "/mcp/session", session=session)).status == 200  # it was not ended


@pytest.mark.parametrize(("method", "path", "body"), [row for row in WITH_SESSION if row[1] != "/mcp"])
async def test_the_stateless_revision_has_no_sessions(client, method, path, body):
    session = await client.session()
    answer = await client.fetch(method, path, json_body=body, session=session, MCP_Protocol_Version="2026-07-28")
    answer.assert_error("UNSUPPORTED_PROTOCOL_VERSION")


# ---------------------------------------------------------------------- the process


async def test_server_draining(app, client, helpers):
    session = await client.session()
    await app.drain(0)
    drained = [
        await client.fetch("POST", "/mcp", session=session, json_body=PING),
        await client.fetch("POST", "/mcp", json_body=helpers.initialize()),
        await client.fetch("GET", "/mcp", session=session),
        await client.fetch("POST", "/mcp/send", session=session, json_body=PING),
        await client.fetch("POST", "/mcp/session"),
        await client.fetch("GET", "/mcp/receive", session=session, Accept="text/event-stream"),
        await client.fetch("GET", "/mcp/receive?wait=30", session=session),
        await client.fetch("GET", "/readyz"),
    ]
    for answer in drained:
        answer.assert_error("SERVER_DRAINING")
    # A client that would keep its connection is told to make a new one: its next request finds another process.
    kept = await (await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=PING)).answer()
    kept.assert_error("SERVER_DRAINING")
    assert kept.headers["Connection"] == "close"
    assert (await client.fetch("GET", "/healthz")).status == 200
    assert (await client.fetch("GET", "/metrics")).status == 200
    # A session can still be ended.
    assert (await client.fetch("DELETE", "/mcp", session=session)).status == 204


async def test_what_was_answered_before_the_drain_can_still_be_fetched(app, client):
    """A poll that finds nothing is refused: it would not wait, and its client would ask again at once."""
    session = await client.session()
    await client.fetch("POST", "/mcp/send", session=session, json_body=PING)
    answered = (await client.fetch("GET", "/mcp/receive?wait=30", session=session)).json()
    await app.drain(0)
    assert (await client.fetch("GET", "/mcp/receive?wait=30", session=session)).json() == answered
    after = f"/mcp/receive?wait=30&after={answered['after']}"
    (await client.fetch("GET", after, session=session)).assert_error("SERVER_DRAINING")


@pytest.mark.parametrize(("method", "path", "body"), ALL)
@pytest.mark.parametrize("sections", [FAULTY])
async def test_internal_error_says_nothing_of_its_cause(faults, client, method, path, body):
    session = await client.session()
    faults.all(ZeroDivisionError("a secret at /etc/passwd"))
    answer = await client.fetch(method, path, json_body=body, session=session)
    answer.assert_error("INTERNAL_ERROR")
    for word in (b"secret", b"passwd", b"ZeroDivision", b"Traceback", b".py"):
        assert word not in answer.body


@pytest.mark.parametrize("sections", [FAULTY])
async def test_internal_error_of_a_handshake(faults, client, helpers):
    faults.of["create"] = ZeroDivisionError("a secret")
    answer = await client.fetch("POST", "/mcp", json_body=helpers.initialize())
    assert b"secret" not in answer.body
    assert "Mcp-Session-Id" not in answer.headers
    answer.assert_error("INTERNAL_ERROR")


async def test_what_a_tool_raises_is_answered_as_the_sdk_does(client):
    session = await client.session()
    answer = await client.call(session, "fail")
    assert answer.status == 200
    assert answer.json()["result"]["isError"] is True


async def test_errors_of_the_sdk_pass_as_they_are(client):
    session = await client.session()
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
