"""`/mcp/session`: sessions without a handshake, and the JSON of a session."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import pytest

from tests.web.messages import initialize_request, tool_call

pytestmark = pytest.mark.gen_test(timeout=60)


async def test_post_creates_a_session_that_is_initialized(client):
    created = await client.fetch("POST", "/mcp/session")
    assert created.status == 201
    assert len(created.session) == 43
    assert created.headers["Location"] == "/mcp/session"
    record = created.json()
    assert record["protocolVersion"] == "2025-11-25"
    assert record["clientParams"]["capabilities"] == {}
    assert record["initialized"] is True
    called = await client.call_tool(created.session)
    assert called.result()["content"] == [{"type": "text", "text": "hello"}]


async def test_empty_body_needs_no_content_type(client):
    connection = await client.open("POST", "/mcp/session", Content_Length="0")
    assert (await connection.read_answer()).status == 201


async def test_post_takes_the_parameters_of_a_handshake(client):
    created = await client.fetch(
        "POST",
        "/mcp/session",
        json_body={
            "protocolVersion": "2025-03-26",
            "capabilities": {"sampling": {}},
            "clientInfo": {"name": "a script", "version": "7", "title": "T"},
        },
        User_Agent="script/7",
    )
    record = created.json()
    assert record["protocolVersion"] == "2025-03-26"
    assert record["client"] == {
        "remoteAddr": "127.0.0.1",
        "userAgent": "script/7",
        "name": "a script",
        "version": "7",
    }
    assert record["clientParams"]["capabilities"] == {"sampling": {}}
    batch = [{"jsonrpc": "2.0", "id": 1, "method": "ping"}]
    answer = await client.fetch("POST", "/mcp", session=created.session, json_body=batch)
    assert answer.json() == [{"jsonrpc": "2.0", "id": 1, "result": {}}]  # revision 2025-03-26 has batches
    largest = await client.fetch("POST", "/mcp", session=created.session, json_body=1000 * batch)
    assert len(largest.json()) == 1000
    too_large = await client.fetch("POST", "/mcp", session=created.session, json_body=1001 * batch)
    assert "at most 1000 messages" in too_large.assert_error("INVALID_REQUEST")["message"]


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_post_accepts_every_revision_with_sessions(client, version):
    created = await client.fetch("POST", "/mcp/session", json_body={"protocolVersion": version})
    assert created.json()["protocolVersion"] == version


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
async def test_invalid_body_is_refused(client, body):
    answer = await client.fetch("POST", "/mcp/session", json_body=body)
    answer.assert_error("INVALID_REQUEST")
    assert "Mcp-Session-Id" not in answer.headers


async def test_session_json_has_the_public_fields_only(client):
    before = datetime.now(UTC)
    session = await client.initialize(clientInfo={"name": "tests", "version": "2"})
    set_level = {"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "info"}}
    await client.fetch("POST", "/mcp", session=session, json_body=set_level)
    answer = await client.fetch("GET", "/mcp/session", session=session)
    assert answer.status == 200
    record = answer.json()
    assert set(record) == {
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
    times = {name: datetime.fromisoformat(record[name]) for name in ("createdAt", "lastSeenAt", "expiresAt")}
    assert all(record[name].endswith("Z") and "T" in record[name] for name in times)
    assert before <= times["createdAt"] <= times["lastSeenAt"] <= datetime.now(UTC)
    assert times["expiresAt"] >= times["lastSeenAt"] + timedelta(hours=1)
    assert record["initialized"] is True
    assert record["principal"] is None
    assert record["client"]["name"] == "tests"
    assert record["clientParams"]["clientInfo"] == {"name": "tests", "version": "2"}
    key = urlsafe_b64encode(hashlib.sha256(session.encode()).digest()).rstrip(b"=").decode()
    assert record["key"] == key[:8]
    for secret in (session, key):
        assert secret not in answer.body.decode()
    assert "Mcp-Session-Id" not in answer.headers


@pytest.mark.parametrize("path", ["/mcp", "/mcp/session"])
async def test_delete_ends_the_session_its_streams_and_its_calls(client, path, hosted):
    session = await client.create_session()
    stream = await client.open_stream("GET", "/mcp", Mcp_Session_Id=session)
    running = await client.open("POST", "/mcp", Mcp_Session_Id=session, json_body=tool_call("wait", 8))
    await hosted.wait_until_started()
    poll = await client.open("GET", "/mcp/receive?wait=30", Mcp_Session_Id=session, Accept="application/json")
    assert (await client.call_tool(session)).status == 200
    ended = await client.fetch("DELETE", path, session=session)
    assert (ended.status, ended.body) == (204, b"")
    assert await stream.read_event() is None
    answer = await running.read_answer()
    assert answer.status == 404
    assert answer.json()["id"] == 8
    assert answer.json()["error"]["code"] == -32000
    (await poll.read_answer()).assert_error("SESSION_NOT_FOUND")
    assert hosted.outcomes == ["cancelled"]
    for method, route in (("POST", "/mcp"), ("GET", "/mcp"), ("GET", "/mcp/session"), ("DELETE", path)):
        body = {"jsonrpc": "2.0", "id": 1, "method": "ping"} if method == "POST" else ...
        (await client.fetch(method, route, session=session, json_body=body)).assert_error("SESSION_NOT_FOUND")


async def test_sessions_are_separate(client):
    first, second = await client.create_session(), await client.initialize()
    records = [(await client.fetch("GET", "/mcp/session", session=session)).json() for session in (first, second)]
    assert records[0]["key"] != records[1]["key"]
    await client.fetch("DELETE", "/mcp/session", session=first)
    assert (await client.fetch("GET", "/mcp/session", session=second)).status == 200


async def test_initialize_on_a_live_session_negotiates_again(client):
    session = await client.initialize("2025-03-26")
    again = await client.fetch(
        "POST",
        "/mcp",
        session=session,
        json_body=initialize_request("2025-11-25", clientInfo={"name": "newer", "version": "9"}),
    )
    assert again.result()["protocolVersion"] == "2025-11-25"
    assert "Mcp-Session-Id" not in again.headers or again.session == session
    record = (await client.fetch("GET", "/mcp/session", session=session)).json()
    assert record["protocolVersion"] == "2025-11-25"
    assert record["initialized"] is False
    assert record["clientParams"]["clientInfo"] == {"name": "newer", "version": "9"}
    assert (record["client"]["name"], record["client"]["version"]) == ("newer", "9")
    batch = [{"jsonrpc": "2.0", "id": 1, "method": "ping"}]
    (await client.fetch("POST", "/mcp", session=session, json_body=batch)).assert_error("INVALID_REQUEST")
    await client.fetch(
        "POST", "/mcp", session=session, json_body={"jsonrpc": "2.0", "method": "notifications/initialized"}
    )
    assert (await client.fetch("GET", "/mcp/session", session=session)).json()["initialized"] is True


async def test_failed_initialize_changes_nothing(client):
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


async def test_initialize_answers_a_revision_with_sessions(client):
    answer = await client.fetch("POST", "/mcp", json_body=initialize_request("2026-07-28"))
    assert answer.result()["protocolVersion"] == "2025-11-25"
    record = (await client.fetch("GET", "/mcp/session", session=answer.session)).json()
    assert record["protocolVersion"] == "2025-11-25"


@pytest.mark.parametrize("accept", ["application/json, text/event-stream", "*/*"])
async def test_initialize_always_answers_json(client, accept):
    answer = await client.fetch("POST", "/mcp", json_body=initialize_request(), Accept=accept)
    assert answer.headers["Content-Type"] == "application/json"
    assert json.loads(answer.body)["id"] == 0
