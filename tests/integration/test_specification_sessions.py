"""Rules of the transport chapters of MCP for sessions, revisions and the stateless era.

docs/specification.md lists the sentences of the specification with the tests that show them, here and in other files.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import pytest

from tests.integration.server_process import Server, StartServer
from tests.integration.specification import RETRY_MILLISECONDS, in_handshake_revisions
from tests.integration.stateless_era import envelope, post_tool_call, read_acknowledgement, stateless_headers
from tests.integration.wire import LATEST, Wire, error_code, notification_names, open_wire

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


# ---------------------------------------------------------------- sessions and their revision


@in_handshake_revisions
async def test_session_ids_are_long_and_visible_ascii(wire: Wire, version: str) -> None:
    ids = {(await wire.initialize(version)).headers["Mcp-Session-Id"] for _ in range(10)}
    assert len(ids) == 10
    for session_id in ids:
        assert len(session_id) == 43
        assert all("!" <= character <= "~" for character in session_id)


@in_handshake_revisions
async def test_a_request_without_its_session_is_refused(wire: Wire, version: str) -> None:
    await wire.open_session(version)
    del wire.headers["Mcp-Session-Id"]
    refused = await wire.post(wire.request("ping"))
    assert (refused.status_code, error_code(refused)) == (400, "SESSION_REQUIRED")
    for method in ("GET", "DELETE"):
        sent = {"Accept": "text/event-stream", **wire.headers}
        refused = await wire.http.request(method, wire.server.url, headers=sent)
        assert (refused.status_code, error_code(refused)) == (400, "SESSION_REQUIRED")


@in_handshake_revisions
async def test_a_session_that_has_ended_is_not_found(wire: Wire, version: str) -> None:
    await wire.open_session(version)
    assert (await wire.delete()).status_code == 204
    assert (await wire.post(wire.request("ping"))).status_code == 404
    assert (await wire.delete()).status_code == 404
    async with wire.get_stream() as events:
        assert events.response.status_code == 404
    assert "Mcp-Session-Id" in (await wire.new_client().initialize(version)).headers


@in_handshake_revisions
async def test_a_session_uses_its_negotiated_revision_without_the_header(wire: Wire, version: str) -> None:
    await wire.open_session(version)
    del wire.headers["MCP-Protocol-Version"]
    batch = await wire.post([wire.request("ping")])
    assert batch.status_code == (200 if version == "2025-03-26" else 400)
    async with wire.post_stream(wire.tool_request("logs", number=1)) as events:
        assert (await events.read_to_end())[0].is_priming == (version == LATEST)


@pytest.mark.parametrize("wrong", ["1999-01-01", "2099-01-01", "nonsense", "", "2025-11-25, 2025-06-18"])
@in_handshake_revisions
async def test_an_unknown_revision_in_the_header_is_refused(wire: Wire, version: str, wrong: str) -> None:
    negotiated = await wire.new_client().post(wire.initialize_request(version), MCP_Protocol_Version=wrong)
    assert negotiated.json()["result"]["protocolVersion"] == version, "the body of initialize negotiates"
    assert (await wire.new_client().post(wire.request("ping"), MCP_Protocol_Version=wrong)).status_code == 400
    await wire.open_session(version)
    wire.headers["MCP-Protocol-Version"] = wrong
    for response in (await wire.post(wire.request("ping")), await wire.delete()):
        assert (response.status_code, error_code(response)) == (400, "UNSUPPORTED_PROTOCOL_VERSION")
    async with wire.get_stream() as events:
        assert events.response.status_code == 400
    wire.headers["MCP-Protocol-Version"] = version
    assert (await wire.post(wire.request("ping"))).status_code == 200


# ---------------------------------------------------------------- the stateless era


async def test_the_stateless_era_has_no_sessions_and_no_resumption(wire: Wire) -> None:
    """Requests create no session and use none, and streams cannot be resumed."""
    await wire.open_session()
    async with wire.post_stream(wire.tool_request("logs", number=2)) as events:
        ids = [frame.id or "" for frame in await events.read_to_end()]
    session_id, wire.headers = wire.session_id, {}
    for given in ({"Mcp-Session-Id": session_id}, {"Mcp-Session-Id": "dead"}, {"Last-Event-ID": ids[0]}):
        meta = envelope(progressToken="p")
        message, named = wire.tool_request("progress", meta=meta, steps=2), stateless_headers("tools/call", "progress")
        async with wire.post_stream(message, **named, **given) as events:
            frames = await events.read_to_end()
            assert "Mcp-Session-Id" not in events.response.headers
        assert [frame.id for frame in frames] == [None] * 3
        assert notification_names(frames) == ["progress"] * 2


async def test_a_subscription_gets_no_messages_of_other_requests(wire: Wire) -> None:
    listen = wire.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}, "_meta": envelope()})
    meta = envelope(**{"progressToken": "p", "io.modelcontextprotocol/logLevel": "info"})
    async with wire.post_stream(listen, **stateless_headers("subscriptions/listen")) as events:
        await read_acknowledgement(events)
        for name, given in (("progress", {"steps": 2}), ("logs", {"number": 2})):
            async with wire.post_stream(
                wire.tool_request(name, meta=meta, **given), **stateless_headers("tools/call", name)
            ) as talking:
                assert len(await talking.read_to_end()) == 3
        await post_tool_call(wire, "publish")
        assert (await events.next_message())["method"] == "notifications/tools/list_changed"


async def test_a_question_without_the_capability_is_refused(wire: Wire) -> None:
    response = await post_tool_call(wire, "greet")
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": {"elicitation": {"form": {}}}})


@pytest.mark.parametrize("missing", ["protocolVersion", "clientCapabilities"])
async def test_an_incomplete_envelope_is_refused(wire: Wire, missing: str) -> None:
    meta = envelope()
    del meta[f"io.modelcontextprotocol/{missing}"]
    response = await wire.post(wire.request("tools/list", {"_meta": meta}), **stateless_headers("tools/list"))
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32602)


@pytest.mark.parametrize("method", ["nonesuch", "ping", "initialize", "resources/subscribe", "logging/setLevel"])
async def test_an_unknown_method_is_not_found(wire: Wire, method: str) -> None:
    response = await wire.post(wire.request(method, {"_meta": envelope()}), **stateless_headers(method))
    assert (response.status_code, response.json()["error"]["code"]) == (404, -32601)


async def test_results_name_the_server(wire: Wire) -> None:
    for method in ("server/discover", "tools/list"):
        result = (await wire.post(wire.request(method, {"_meta": envelope()}), **stateless_headers(method))).json()[
            "result"
        ]
        assert result["resultType"] == "complete"
        assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "everything"


async def test_an_unknown_resource_has_the_error_code_of_the_revision(wire: Wire) -> None:
    named = stateless_headers("resources/read", "memo://nonesuch/at/all")
    request = wire.request("resources/read", {"uri": "memo://nonesuch/at/all", "_meta": envelope()})
    assert (await wire.post(request, **named)).json()["error"]["code"] == -32602
