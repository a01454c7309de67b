"""Rules of the transport chapters of MCP for messages, the endpoint and the answer to a POST, in each revision.

docs/specification.md lists the sentences of the specification with the tests that show them, here and in other files.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any, Final

import psutil
import pytest

from tests.integration.server_process import Server, StartServer
from tests.integration.specification import (
    HANDSHAKE_REVISIONS,
    RETRY_MILLISECONDS,
    in_all_revisions,
    in_handshake_revisions,
    tool_request_in,
    use_revision,
)
from tests.integration.stateless_era import UNSUPPORTED_VERSION, envelope, stateless_headers
from tests.integration.wire import LATEST, STATELESS, Wire, answer_text, error_code, notification_names, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    """A server that streams only calls that send messages, however busy the machine is."""
    with start_server(EVENTS__STREAM_AFTER_SECONDS=5, EVENTS__RETRY_MILLISECONDS=RETRY_MILLISECONDS) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with open_wire(server) as wire:
        yield wire


# ---------------------------------------------------------------- messages


@in_all_revisions
async def test_messages_are_utf_8_in_both_directions(wire: Wire, version: str) -> None:
    await use_revision(wire, version)
    message, named = tool_request_in(version, wire, "echo", text="ä€𝄞")
    answer = await wire.post(message, **named)
    assert "ä€𝄞".encode() in answer.content
    message, named = tool_request_in(version, wire, "progress", steps=1, meta={"progressToken": "ä€𝄞"})
    streamed = await wire.post(message, **named)
    assert streamed.headers["Content-Type"] == "text/event-stream"
    assert '"progressToken":"ä€𝄞"'.encode() in streamed.content
    message, named = tool_request_in(version, wire, "echo", text="ä")
    sent = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json", **wire.headers}
    for charset, status in (("utf-8", 200), ("latin-1", 400), ("utf-16", 400)):
        body = json.dumps(message, ensure_ascii=False).encode(charset)
        refused = await wire.http.post(wire.server.url, content=body, headers={**sent, **named})
        assert refused.status_code == status
        assert status == 200 or error_code(refused) == "PARSE_ERROR"


# ---------------------------------------------------------------- the endpoint


@in_handshake_revisions
async def test_one_path_takes_post_get_and_delete(wire: Wire, version: str) -> None:
    await wire.open_session(version)
    async with wire.get_stream() as events:
        assert events.response.status_code == 200
        assert events.response.headers["Content-Type"] == "text/event-stream"
        assert (await wire.post(wire.request("ping"))).json()["result"] == {}
    assert (await wire.delete()).status_code == 204


@in_all_revisions
async def test_a_foreign_origin_is_refused(wire: Wire, version: str) -> None:
    await use_revision(wire, version)
    message, named = tool_request_in(version, wire, "echo", text="x")
    for method in ("POST", "GET", "DELETE") if version != STATELESS else ("POST",):
        sent = {"Accept": "application/json, text/event-stream", "Origin": "https://evil.example", **wire.headers}
        body = message if method == "POST" else None
        refused = await wire.http.request(method, wire.server.url, json=body, headers={**sent, **named})
        assert (refused.status_code, error_code(refused)) == (403, "FORBIDDEN_ORIGIN")
        assert refused.json()["id"] is None
    for origin in ({"Origin": "http://localhost:5173"}, {}):
        assert (await wire.post(message, **named, **origin)).status_code == 200


def test_the_server_listens_on_loopback_by_default(server: Server) -> None:
    listening = [each for each in psutil.Process(server.pid).net_connections() if each.status == psutil.CONN_LISTEN]
    assert [each.laddr.ip for each in listening] == ["127.0.0.1"]


async def test_the_transport_of_2024_11_05_is_not_served(wire: Wire) -> None:
    """The first requests of its clients are refused, without an `endpoint` event."""
    for method, path, status in (("GET", "/mcp", 400), ("GET", "/sse", 404), ("POST", "/messages", 404)):
        response = await wire.http.request(method, wire.server.origin + path, headers={"Accept": "text/event-stream"})
        assert response.status_code == status
        assert "endpoint" not in response.text


# ---------------------------------------------------------------- answers to a POST


NOTIFICATION: Final = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
RESPONSE: Final = {"jsonrpc": "2.0", "id": "no such question", "result": {}}
ERROR: Final = {"jsonrpc": "2.0", "id": "no such question", "error": {"code": -1, "message": "no"}}


@pytest.mark.parametrize(
    ("version", "message"),
    [
        *((version, message) for version in HANDSHAKE_REVISIONS for message in (NOTIFICATION, RESPONSE, ERROR)),
        *(("2025-03-26", batch) for batch in ([NOTIFICATION], [RESPONSE, ERROR], [NOTIFICATION, RESPONSE])),
        (STATELESS, NOTIFICATION),
    ],
)
async def test_notifications_and_responses_are_accepted_without_a_body(wire: Wire, version: str, message: Any) -> None:
    await use_revision(wire, version)
    accepted = await wire.post(message)
    assert (accepted.status_code, accepted.content) == (202, b"")
    assert "Content-Type" not in accepted.headers


@pytest.mark.parametrize(
    ("version", "message"),
    [
        *((version, {**NOTIFICATION, "method": 7}) for version in (*HANDSHAKE_REVISIONS, STATELESS)),
        *((version, {**RESPONSE, "error": {}}) for version in (*HANDSHAKE_REVISIONS, STATELESS)),
        *((version, [NOTIFICATION]) for version in ("2025-06-18", LATEST, STATELESS)),
        ("2025-03-26", [NOTIFICATION, {**NOTIFICATION, "method": 7}]),
        ("2025-03-26", []),
        (STATELESS, RESPONSE),
    ],
)
async def test_invalid_notifications_and_responses_are_refused(wire: Wire, version: str, message: Any) -> None:
    await use_revision(wire, version)
    refused = await wire.post(message)
    assert (refused.status_code, error_code(refused)) == (400, "INVALID_REQUEST")
    assert refused.json()["id"] is None


async def test_a_notification_of_an_unknown_revision_is_refused(wire: Wire) -> None:
    notification = {**NOTIFICATION, "params": {"_meta": envelope("2099-01-01")}}
    refused = await wire.post(notification, MCP_Protocol_Version="2099-01-01")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, UNSUPPORTED_VERSION)
    assert (await wire.post(NOTIFICATION, MCP_Protocol_Version="2099-01-01")).status_code == 400


@in_handshake_revisions
async def test_messages_without_a_live_session_are_refused(wire: Wire, version: str) -> None:
    await wire.open_session(version)
    for message in (NOTIFICATION, RESPONSE):
        without = await wire.new_client().post(message, MCP_Protocol_Version=version)
        assert (without.status_code, error_code(without)) == (400, "SESSION_REQUIRED")
    await wire.delete()
    for message in (NOTIFICATION, RESPONSE):
        assert (await wire.post(message)).status_code == 404


@in_all_revisions
async def test_a_request_is_answered_with_json_or_a_stream(wire: Wire, version: str) -> None:
    await use_revision(wire, version)
    message, named = tool_request_in(version, wire, "echo", text="x")
    answer = await wire.post(message, **named)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["id"] == message["id"]
    message, named = tool_request_in(version, wire, "progress", steps=2, meta={"progressToken": "p"})
    async with wire.post_stream(message, **named) as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        frames = [frame for frame in await events.read_to_end() if frame.message is not None]
    assert notification_names(frames) == ["progress"] * 2
    assert frames[-1].message["id"] == message["id"], "the answer must be the last message of the stream"


@in_all_revisions
async def test_the_answer_to_a_request_has_a_type_that_the_client_accepts(wire: Wire, version: str) -> None:
    await use_revision(wire, version)
    message, named = tool_request_in(version, wire, "echo", text="x")
    for accept in ("application/json", "application/json;q=0.1, text/event-stream;q=0"):
        answer = await wire.post(message, **named, Accept=accept)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
        assert answer_text(answer.json()) == "x"
    async with wire.post_stream(message, **named, Accept="text/event-stream") as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        assert answer_text((await events.read_to_end())[-1].message) == "x"
    for accept in ("text/html", "application/json;q=0"):
        refused = await wire.post(message, **named, Accept=accept)
        assert (refused.status_code, error_code(refused)) == (406, "NOT_ACCEPTABLE")


@in_all_revisions
async def test_streams_carry_a_header_against_buffering(wire: Wire, version: str) -> None:
    await use_revision(wire, version)
    message, named = tool_request_in(version, wire, "progress", steps=1, meta={"progressToken": "p"})
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(wire.post_stream(message, **named))]
        if version == STATELESS:
            request = wire.request("subscriptions/listen", {"notifications": {}, "_meta": envelope()})
            streams.append(
                await stack.enter_async_context(wire.post_stream(request, **stateless_headers("subscriptions/listen")))
            )
        else:
            streams.append(await stack.enter_async_context(wire.get_stream()))
        for events in streams:
            assert events.response.headers["Content-Type"] == "text/event-stream"
            assert events.response.headers["X-Accel-Buffering"] == "no"
