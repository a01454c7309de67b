"""`/mcp/session`: sessions without a handshake; what a session shows of itself."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import pytest

pytestmark = pytest.mark.gen_test


async def test_post_makes_a_session_that_is_ready_at_once(client):
    made = await client.fetch("POST", "/mcp/session")
    assert made.status == 201
    assert len(made.session) == 43
    assert made.headers["Location"] == "/mcp/session"
    shown = made.json()
    assert shown["protocolVersion"] == "2025-11-25"
    assert shown["clientParams"]["capabilities"] == {}
    assert shown["initialized"] is True
    called = await client.call(made.session)
    assert called.result()["content"] == [{"type": "text", "text": "hello"}]


async def test_an_empty_body_needs_no_content_type(client):
    connection = await client.open("POST", "/mcp/session", Content_Length="0")
    assert (await connection.answer()).status == 201


async def test_post_takes_what_a_handshake_would_say(client):
    made = await client.fetch(
        "POST",
        "/mcp/session",
        json_body={
            "protocolVersion": "2025-03-26",
            "capabilities": {"sampling": {}},
            "clientInfo": {"name": "a script", "version": "7", "title": "T"},
        },
        User_Agent="script/7",
    )
    shown = made.json()
    assert shown["protocolVersion"] == "2025-03-26"
    assert shown["client"] == {
        "remoteAddr": "127.0.0.1",
        "userAgent": "script/7",
        "name": "a script",
        "version": "7",
    }
    assert shown["clientParams"]["capabilities"] == {"sampling": {}}
    batch = [{"jsonrpc": "2.0", "id": 1, "method": "ping"}]
    answer = await client.fetch("POST", "/mcp", session=made.session, json_body=batch)
    assert answer.json() == [{"jsonrpc": "2.0", "id": 1, "result": {}}]  # that revision has batches
    largest = await client.fetch("POST", "/mcp", session=made.session, json_body=1000 * batch)
    assert len(largest.json()) == 1000
    too_large = await client.fetch("POST", "/mcp", session=made.session, json_body=1001 * batch)
    assert "at most 1000 messages" in too_large.assert_error("INVALID_REQUEST")["message"]


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_every_revision_with_sessions(client, version):
    made = await client.fetch("POST", "/mcp/session", json_body={"protocolVersion": version})
    assert made.json()["protocolVersion"] == version


@pytest.mark.parametrize(
    "body",
    [
        {"protocolVersion": "2026-07-28"},
        {"protocolVersion": "2023-01-01"},
        {"protocolVersion": ""},
        {"protocolVersion": None},
        {"protocolVersion": 20251125},
        {"protocolVersion": ["2025-11-25"]},
        {"protocolVersion": {}},
        {"capabilities": None},
        {"capabilities": []},
        {"capabilities": "x"},
        {"capabilities": {"roots": 1}},
        {"clientInfo": None},
        {"clientInfo": "x"},
        {"clientInfo": {}},
        {"clientInfo": {"name": "x"}},
        {"clientInfo": {"name": 1, "version": "1"}},
        {"clientInfo": {"name": "x", "version": None}},
        {"protocol_version": "2025-11-25"},
        {"clientinfo": {"name": "x", "version": "1"}},
        {"unknown": 1},
        {"": 1},
        [],
        [{}],
        None,
        True,
        0,
        "",
        "2025-11-25",
    ],
    ids=repr,
)
async def test_a_bad_body(client, body):
    answer = await client.fetch("POST", "/mcp/session", json_body=body)
    answer.assert_error("INVALID_REQUEST")
    assert "Mcp-Session-Id" not in answer.headers


async def test_what_a_session_shows(client):
    before = datetime.now(UTC)
    session = await client.initialize(clientInfo={"name": "tests", "version": "2"})
    subscribed = {"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "info"}}
    await client.fetch("POST", "/mcp", session=session, json_body=subscribed)
    answer = await client.fetch("GET", "/mcp/session", session=session)
    assert answer.status == 200
    shown = answer.json()
    assert set(shown) == {
        "key",
        "createdAt",
        "lastSeenAt",
        "expiresAt",
        "client",
        "principal",
        "protocolVersion",
        "clientParams",
        "initialized",
        "revision",
    }
    times = {name: datetime.fromisoformat(shown[name]) for name in ("createdAt", "lastSeenAt", "expiresAt")}
    assert all(shown[name].endswith("Z") and "T" in shown[name] for name in times)
    assert before <= times["createdAt"] <= times["lastSeenAt"] <= datetime.now(UTC)
    assert times["expiresAt"] >= times["lastSeenAt"] + timedelta(hours=1)
    assert shown["initialized"] is True
    assert shown["principal"] is None
    assert shown["client"]["name"] == "tests"
    assert shown["clientParams"]["clientInfo"] == {"name": "tests", "version": "2"}
    key = urlsafe_b64encode(hashlib.sha256(session.encode()).digest()).rstrip(b"=").decode()
    assert shown["key"] == key[:8]
    for secret in (session, key):
        assert secret not in answer.body.decode()
    assert "Mcp-Session-Id" not in answer.headers


@pytest.mark.parametrize("path", ["/mcp", "/mcp/session"])
async def test_delete_ends_a_session_everywhere(client, path, hosted, helpers):
    session = await client.session()
    stream = await client.stream("GET", "/mcp", Mcp_Session_Id=session)
    running = await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=helpers.tool_call("wait", 8))
    await hosted.started.wait()
    poll = await client.open("GET", "/mcp/receive?wait=30", Mcp_Session_Id=session, Accept="application/json")
    assert (await client.call(session)).status == 200
    ended = await client.fetch("DELETE", path, session=session)
    assert (ended.status, ended.body) == (204, b"")
    assert await stream.event() is None
    answer = await running.answer()
    assert answer.status == 404
    assert answer.json()["id"] == 8
    assert answer.json()["error"]["code"] == -32000
    (await poll.answer()).assert_error("SESSION_NOT_FOUND")
    assert hosted.finished == ["cancelled"]
    for method, route in (("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/mcp/session"), ("DELETE", path)):
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"} if method == "POST" else ...
        (await client.fetch(method, route, session=session, json_body=body)).assert_error("SESSION_NOT_FOUND")


async def test_a_session_says_nothing_of_another(client):
    first, second = await client.session(), await client.initialize()
    shown = [(await client.fetch("GET", "/mcp/session", session=one)).json() for one in (first, second)]
    assert shown[0]["key"] != shown[1]["key"]
    await client.fetch("DELETE", "/mcp/session", session=first)
    assert (await client.fetch("GET", "/mcp/session", session=second)).status == 200


async def test_initialize_on_a_live_session_negotiates_anew(client, helpers):
    session = await client.initialize("2025-03-26")
    again = await client.fetch(
        "POST",
        "/mcp",
        session=session,
        json_body=helpers.initialize("2025-11-25", clientInfo={"name": "newer", "version": "9"}),
    )
    assert again.result()["protocolVersion"] == "2025-11-25"
    assert "Mcp-Session-Id" not in again.headers or again.session == session
    shown = (await client.fetch("GET", "/mcp/session", session=session)).json()
    assert shown["protocolVersion"] == "2025-11-25"
    assert shown["initialized"] is False
    assert shown["clientParams"]["clientInfo"] == {"name": "newer", "version": "9"}
    assert (shown["client"]["name"], shown["client"]["version"]) == ("newer", "9")
    batch = [{"jsonrpc": "2.0", "id": 1, "method": "ping"}]
    (await client.fetch("POST", "/mcp", session=session, json_body=batch)).assert_error("INVALID_REQUEST")
    await client.fetch(
        "POST", "/mcp", session=session, json_body={"jsonrpc": "2.0", "method": "notifications/initialized"}
    )
    assert (await client.fetch("GET", "/mcp/session", session=session)).json()["initialized"] is True


async def test_initialize_that_fails_changes_nothing(client):
    session = await client.initialize("2025-06-18")
    before = (await client.fetch("GET", "/mcp/session", session=session)).json()
    bad = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
    failed = await client.fetch("POST", "/mcp", session=session, json_body=bad)
    assert failed.json()["error"]["code"] == -32602
    after = (await client.fetch("GET", "/mcp/session", session=session)).json()
    assert {**after, "lastSeenAt": 0} == {**before, "lastSeenAt": 0}
    refused = await client.fetch("POST", "/mcp", json_body=bad)
    assert "Mcp-Session-Id" not in refused.headers
    assert refused.json()["error"]["code"] == -32602


async def test_the_revision_that_is_answered_is_one_that_has_sessions(client, helpers):
    answer = await client.fetch("POST", "/mcp", json_body=helpers.initialize("2026-07-28"))
    assert answer.result()["protocolVersion"] == "2025-11-25"
    shown = (await client.fetch("GET", "/mcp/session", session=answer.session)).json()
    assert shown["protocolVersion"] == "2025-11-25"


@pytest.mark.parametrize("accept", ["application/json, text/event-stream", "*/*"])
async def test_initialize_always_answers_json(client, helpers, accept):
    answer = await client.fetch("POST", "/mcp", json_body=helpers.initialize(), Accept=accept)
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.body)["id"] == 0
