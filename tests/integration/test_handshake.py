"""The handshake: revisions, batches, renegotiation, and the checks of every request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from urllib.parse import urlsplit

import anyio
import httpx
import pytest

from tests.integration.server_process import LOWLEVEL, Server, StartServer
from tests.integration.waiting import DEADLINE_SECONDS
from tests.integration.wire import LATEST, STATELESS, Wire, answer_text, error_code, open_wire

pytestmark = pytest.mark.anyio

REVISIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(EVENTS__STREAM_AFTER_SECONDS=0.2, SERVER__MAX_BODY_BYTES=100_000) as server:
        yield server


@pytest.fixture(scope="module")
def lowlevel(start_server: StartServer) -> Generator[Server]:
    with start_server(LOWLEVEL) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with open_wire(server) as wire:
        yield wire


@pytest.mark.parametrize("version", REVISIONS)
async def test_every_revision_of_the_handshake_era_is_served(wire: Wire, version: str) -> None:
    response = await wire.initialize(version)
    assert response.headers["Content-Type"] == "application/json"
    result = response.json()["result"]
    assert result["protocolVersion"] == version
    assert result["serverInfo"]["name"] == "everything"
    session_id = response.headers["Mcp-Session-Id"]
    assert len(session_id) == 43
    await wire.open_session(version)
    assert await wire.call_tool("echo", text="ä") == "ä"
    assert await wire.call_tool("whoami") != wire.session_id


@pytest.mark.parametrize("version", ["1999-01-01", "2099-01-01", STATELESS, "nonsense"])
async def test_an_unknown_revision_is_answered_with_the_latest(wire: Wire, version: str) -> None:
    response = await wire.initialize(version)
    assert response.json()["result"]["protocolVersion"] == LATEST
    assert response.headers["Mcp-Session-Id"]


async def test_a_request_may_come_before_initialized(wire: Wire) -> None:
    response = await wire.initialize()
    wire.headers = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"]}
    assert (await wire.post(wire.request("ping"))).json()["result"] == {}


async def test_every_session_has_its_own_id(wire: Wire) -> None:
    ids = {(await wire.initialize()).headers["Mcp-Session-Id"] for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize("params", [None, {}, {"protocolVersion": LATEST}, {"protocolVersion": 7}])
async def test_an_invalid_initialize_creates_no_session(wire: Wire, params: object) -> None:
    before = await wire.metric("mcp_tornado_sessions_created_total")
    response = await wire.post(wire.request("initialize", params))
    assert "error" in response.json()
    assert "Mcp-Session-Id" not in response.headers
    assert await wire.metric("mcp_tornado_sessions_created_total") == before


# ---------------------------------------------------------------- renegotiation


async def test_initialize_on_a_live_session_renegotiates_it(wire: Wire) -> None:
    await wire.open_session("2025-06-18")
    before = await wire.metric("mcp_tornado_sessions_created_total")
    key = await wire.call_tool("whoami")
    response = await wire.initialize("2025-11-25")
    assert response.status_code == 200
    assert response.json()["result"]["protocolVersion"] == "2025-11-25"
    assert await wire.metric("mcp_tornado_sessions_created_total") == before
    shown = (await wire.http.get(f"{wire.server.url}/session", headers=wire.headers)).json()
    assert (shown["protocolVersion"], shown["initialized"]) == ("2025-11-25", False)
    await wire.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
    shown = (await wire.http.get(f"{wire.server.url}/session", headers=wire.headers)).json()
    assert shown["initialized"] is True
    assert await wire.call_tool("whoami") == key
    async with wire.post_stream(wire.tool_request("wait_at", gate="renegotiated")) as events:
        first = await events.next_frame()
        assert first is not None
        assert first.is_priming, "streams must follow the new revision"
        await wire.call_tool("open_gate", gate="renegotiated")
        await events.read_to_end()


async def test_new_capabilities_apply_after_renegotiation(wire: Wire) -> None:
    await wire.open_session()
    refused = (await wire.post(wire.tool_request("greet"))).json()
    assert "error" in refused or refused["result"]["isError"]
    response = await wire.initialize(capabilities={"elicitation": {}})
    assert response.status_code == 200
    async with wire.post_stream(wire.tool_request("greet")) as events:
        question = await events.next_message()
        assert question["method"] == "elicitation/create"
        answer = {"action": "accept", "content": {"name": "Ada"}}
        await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
        assert answer_text(await events.next_message()) == "Hello Ada"


async def test_renegotiation_does_not_end_a_running_call(wire: Wire) -> None:
    await wire.open_session()
    async with wire.post_stream(wire.tool_request("wait_at", gate="survivor")) as events:
        assert await events.next_frame()
        assert (await wire.initialize()).status_code == 200
        await wire.call_tool("open_gate", gate="survivor")
        assert answer_text((await events.read_to_end())[-1].message) == "through survivor"


async def test_initialize_with_a_dead_id_creates_a_session(wire: Wire) -> None:
    await wire.open_session()
    await wire.delete()
    for former in (wire.session_id, "A" * 43):
        wire.headers["Mcp-Session-Id"] = former
        response = await wire.initialize()
        assert response.status_code == 200
        assert response.headers["Mcp-Session-Id"] not in (former, "")
        wire.headers["Mcp-Session-Id"] = response.headers["Mcp-Session-Id"]
        assert await wire.call_tool("echo", text="again") == "again"
    refused = await wire.post(wire.request("ping"), Mcp_Session_Id="A" * 43)
    assert (refused.status_code, error_code(refused)) == (404, "SESSION_NOT_FOUND")


@pytest.mark.parametrize("header", ["2027-01-15", "1999-01-01", "nonsense", STATELESS, REVISIONS[0]])
async def test_the_revision_header_of_initialize_is_ignored(wire: Wire, header: str) -> None:
    response = await wire.post(wire.initialize_request("2025-06-18"), MCP_Protocol_Version=header)
    assert response.json()["result"]["protocolVersion"] == "2025-06-18"
    first = response.headers["Mcp-Session-Id"]
    again = await wire.post(wire.initialize_request("2025-03-26"), MCP_Protocol_Version=header, Mcp_Session_Id=first)
    assert again.json()["result"]["protocolVersion"] == "2025-03-26"
    assert "Mcp-Session-Id" not in again.headers, "the live session must be negotiated anew"
    dead = await wire.post(wire.initialize_request(), MCP_Protocol_Version=header, Mcp_Session_Id="dead")
    assert dead.headers["Mcp-Session-Id"] != first
    malformed = await wire.post(wire.initialize_request(), MCP_Protocol_Version=header, Mcp_Session_Id="a b")
    assert (malformed.status_code, error_code(malformed)) == (400, "SESSION_ID_MALFORMED")


# ---------------------------------------------------------------- batches


async def test_a_batch_is_answered_if_the_revision_has_batches(wire: Wire) -> None:
    await wire.open_session("2025-03-26")
    batch = [
        wire.tool_request("echo", text="one", id="a"),
        {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
        wire.request("nonesuch", id="b"),
        wire.tool_request("add", a=1, b=2, id="c"),
    ]
    response = await wire.post(batch)
    assert response.headers["Content-Type"] == "application/json"
    answers = {answer["id"]: answer for answer in response.json()}
    assert answers.keys() == {"a", "b", "c"}
    assert answer_text(answers["a"]) == "one"
    assert answers["b"]["error"]["code"] == -32601
    assert answer_text(answers["c"]) == "3"


async def test_a_batch_of_one_is_answered_with_a_list(wire: Wire) -> None:
    await wire.open_session("2025-03-26")
    assert [answer["id"] for answer in (await wire.post([wire.request("ping", id=3)])).json()] == [3]


async def test_a_batch_of_notifications_is_accepted(wire: Wire) -> None:
    await wire.open_session("2025-03-26")
    response = await wire.post([{"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}] * 2)
    assert (response.status_code, response.content) == (202, b"")


async def test_a_batch_whose_calls_send_messages_is_answered_on_one_stream(wire: Wire) -> None:
    await wire.open_session("2025-03-26")
    batch = [
        wire.tool_request("logs", number=2, id="a"),
        wire.tool_request("wait_at", gate="batch", id="b"),
        wire.tool_request("echo", text="c", id="c"),
    ]
    async with wire.post_stream(batch) as events:
        assert await events.next_message()
        await wire.call_tool("open_gate", gate="batch")
        messages = [frame.message for frame in await events.read_to_end()]
    assert {message["id"] for message in messages if "id" in message} == {"a", "b", "c"}
    assert messages[-1]["id"] == "b"


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25"])
async def test_batches_are_refused_if_the_revision_has_none(wire: Wire, version: str) -> None:
    await wire.open_session(version)
    response = await wire.post([wire.request("ping")])
    assert response.status_code == 400
    assert error_code(response) == "INVALID_REQUEST"


async def test_an_invalid_message_in_a_batch_refuses_the_whole_batch(wire: Wire) -> None:
    await wire.open_session("2025-03-26")
    initialize = wire.request("initialize", {"protocolVersion": LATEST, "capabilities": {}, "clientInfo": {}})
    for batch in ([], [initialize], [wire.request("ping"), "nonsense"]):
        response = await wire.post(batch)
        assert response.status_code == 400
        assert error_code(response) == "INVALID_REQUEST"


# ---------------------------------------------------------------- the checks of every request


async def test_messages_without_a_session_are_refused(wire: Wire) -> None:
    response = await wire.post(wire.tool_request("echo", text="x"))
    assert response.status_code == 400
    assert error_code(response) == "SESSION_REQUIRED"


@pytest.mark.parametrize("session_id", ["", "with space", "x" * 129])
async def test_malformed_ids_are_refused(wire: Wire, session_id: str) -> None:
    response = await wire.post(wire.request("ping"), Mcp_Session_Id=session_id)
    assert response.status_code == 400
    assert error_code(response) == "SESSION_ID_MALFORMED"


async def test_bodies_that_are_not_messages_are_refused(wire: Wire) -> None:
    await wire.open_session()
    headers = {**wire.headers, "Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    for body, code in (
        (b"{", "PARSE_ERROR"),
        (b"\xff\xfe", "PARSE_ERROR"),
        (b"", "PARSE_ERROR"),
        (b"17", "INVALID_REQUEST"),
        (b'{"id": 1, "method": "ping"}', "INVALID_REQUEST"),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', "INVALID_REQUEST"),
    ):
        response = await wire.http.post(wire.server.url, content=body, headers=headers)
        assert (response.status_code, error_code(response)) == (400, code)


@pytest.mark.parametrize(
    ("name", "value", "status", "code"),
    [
        ("Accept", "text/html", 406, "NOT_ACCEPTABLE"),
        ("Accept", "application/json;q=0", 406, "NOT_ACCEPTABLE"),
        ("Content-Type", "text/plain", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("Host", "evil.example", 421, "MISDIRECTED_HOST"),
        ("Origin", "https://evil.example", 403, "FORBIDDEN_ORIGIN"),
        ("MCP-Protocol-Version", "1999-01-01", 400, "UNSUPPORTED_PROTOCOL_VERSION"),
    ],
)
async def test_invalid_headers_are_refused(wire: Wire, name: str, value: str, status: int, code: str) -> None:
    await wire.open_session()
    response = await wire.post(wire.request("ping"), **{name: value})
    assert (response.status_code, error_code(response)) == (status, code)
    assert (await wire.post(wire.request("ping"))).status_code == 200


async def test_a_body_that_is_too_large_is_refused(wire: Wire) -> None:
    await wire.open_session()
    response = await wire.post(wire.tool_request("echo", text="x" * 200_000))
    assert (response.status_code, error_code(response)) == (413, "PAYLOAD_TOO_LARGE")

    async def chunks() -> AsyncGenerator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    headers = {**wire.headers, "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    response = await wire.http.post(wire.server.url, content=chunks(), headers=headers)
    assert (response.status_code, error_code(response)) == (413, "PAYLOAD_TOO_LARGE")
    assert await wire.call_tool("echo", text="fine") == "fine"


@pytest.mark.parametrize("path", ["/mcp", "/mcp/session", "/mcp/send", "/mcp/receive", "/mcp/abort", "/healthz"])
async def test_other_methods_are_refused_with_the_allowed_ones(wire: Wire, path: str) -> None:
    response = await wire.http.request("PATCH", wire.server.origin + path)
    assert response.status_code == 405
    assert error_code(response) == "METHOD_NOT_ALLOWED"
    assert response.headers["Allow"]


@pytest.mark.parametrize("path", ["/mcp/", "/mcp/session/", "/healthz/", "/readyz/", "/metrics/"])
async def test_a_trailing_slash_makes_no_difference(wire: Wire, path: str) -> None:
    await wire.open_session()
    headers = {**wire.headers, "Accept": "text/event-stream"}
    async with wire.http.stream("GET", wire.server.origin + path, headers=headers) as response:
        assert response.status_code == 200


async def test_unknown_routes_are_not_found(wire: Wire) -> None:
    for path in ("/", "/nonesuch", "/mcp/nonesuch"):
        response = await wire.http.get(wire.server.origin + path)
        assert (response.status_code, error_code(response)) == (404, "ROUTE_NOT_FOUND")


async def test_preflights_are_answered(wire: Wire) -> None:
    headers = {
        "Origin": "http://localhost:5173",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, mcp-session-id, mcp-param-city",
    }
    response = await wire.http.options(wire.server.url, headers=headers)
    assert response.status_code == 204
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    allowed = {name.strip().lower() for name in response.headers["Access-Control-Allow-Headers"].split(",")}
    assert {"content-type", "mcp-session-id", "mcp-param-city", "last-event-id", "authorization"} <= allowed
    answer = await wire.post(wire.request("ping"), Origin="http://localhost:5173")
    exposed = "Mcp-Session-Id, MCP-Protocol-Version, Retry-After, WWW-Authenticate"
    assert answer.headers["Access-Control-Expose-Headers"] == exposed


@pytest.mark.parametrize("refusal", ["Mcp-Session-Id: dead", "Origin: https://evil.example"])
async def test_a_connection_outlives_a_request_that_is_refused_early(wire: Wire, refusal: str) -> None:
    """A refusal may come before the body. Then the connection stays usable, or the answer announces that it closes.

    Otherwise a client that sends its next request, or is still sending the body, would see a broken connection instead
    of an answer.
    """
    url = urlsplit(wire.server.url)
    body = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
    head = (
        f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n{refusal}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    health = f"GET /healthz HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode()
    async with await anyio.connect_tcp(url.hostname or "", url.port or 0) as stream:
        await stream.send(head)
        answer = b""
        with anyio.move_on_after(1):  # a server that waits for the body sends nothing yet
            answer = await stream.receive()
        await stream.send(body)
        if not answer:
            with anyio.fail_after(DEADLINE_SECONDS):
                answer = await stream.receive()
        assert answer.startswith(b"HTTP/1.1 40"), answer
        if b"connection: close" not in answer.lower():
            await stream.send(health)
            with anyio.fail_after(DEADLINE_SECONDS):
                assert (await stream.receive()).startswith(b"HTTP/1.1 200")


# ---------------------------------------------------------------- /mcp/session


async def test_a_session_without_a_handshake(wire: Wire) -> None:
    response = await wire.http.post(f"{wire.server.url}/session")
    assert response.status_code == 201
    assert response.headers["Location"] == "/mcp/session"
    wire.headers = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"]}
    created = response.json()
    assert (created["protocolVersion"], created["initialized"]) == (LATEST, True)
    assert created["createdAt"].endswith("Z")
    assert await wire.call_tool("echo", text="x") == "x"
    shown = await wire.http.get(f"{wire.server.url}/session", headers=wire.headers)
    assert shown.status_code == 200
    assert wire.session_id not in shown.text
    ended = await wire.http.delete(f"{wire.server.url}/session", headers=wire.headers)
    assert (ended.status_code, ended.content) == (204, b"")
    assert error_code(await wire.post(wire.request("ping"))) == "SESSION_NOT_FOUND"


async def test_a_session_without_a_handshake_can_have_a_revision_and_capabilities(wire: Wire) -> None:
    body = {
        "protocolVersion": "2025-06-18",
        "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "Ada's", "version": "3"},
    }
    response = await wire.http.post(f"{wire.server.url}/session", json=body)
    created = response.json()
    assert created["protocolVersion"] == "2025-06-18"
    assert (created["client"]["name"], created["client"]["version"]) == ("Ada's", "3")
    wire.headers = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"]}
    async with wire.post_stream(wire.tool_request("greet")) as events:
        question = await events.next_message()
        await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}})
        assert answer_text(await events.next_message()) == "no name: decline"


@pytest.mark.parametrize(
    "body",
    [[], {"protocolVersion": "2026-07-28"}, {"capabilities": 3}, {"clientInfo": {}}, {"nonesuch": 1}, "text"],
)
async def test_invalid_values_create_no_session(wire: Wire, body: object) -> None:
    response = await wire.http.post(f"{wire.server.url}/session", json=body)
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")
    assert "Mcp-Session-Id" not in response.headers


# ---------------------------------------------------------------- a low-level server


async def test_renegotiation_clears_the_journal(lowlevel: Server) -> None:
    async with open_wire(lowlevel) as wire:
        await wire.open_session()
        subscribed = await wire.post(wire.request("resources/subscribe", {"uri": "memo://a"}))
        assert subscribed.json()["result"] == {}
        shown = (await wire.http.get(f"{lowlevel.url}/session", headers=wire.headers)).json()
        assert "journal" not in shown
        assert "state" not in shown
        assert await wire.call_tool("first", x=1) == "{'x': 1}"
        assert isinstance(await wire.initialize(), httpx.Response)
