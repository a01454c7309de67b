"""What the transport chapters of MCP ask of a server, on the wire, in every revision that asks it.

docs/specification.md tells which sentence is shown by which test, here and elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any, Final

import anyio
import psutil
import pytest

from mcp_tornado.sessions import EventId
from tests.integration.cluster import read
from tests.integration.conftest import (
    LATEST,
    STATELESS,
    Events,
    Frame,
    Server,
    StartServer,
    Wire,
    error_code,
    log_data,
    text_of,
    wire_to,
)
from tests.integration.test_stateless import UNSUPPORTED_VERSION, acknowledged, call, envelope, headers

pytestmark = pytest.mark.anyio

UNPRIMED: Final = ["2025-03-26", "2025-06-18"]
HANDSHAKE: Final = [*UNPRIMED, LATEST]
RETRY: Final = 321

handshake = pytest.mark.parametrize("version", HANDSHAKE)
everywhere = pytest.mark.parametrize("version", [*HANDSHAKE, STATELESS])


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    """A server that streams what talks, and answers all else with JSON, however busy the machine is."""
    with start_server(EVENTS__STREAM_AFTER_SECONDS=5, EVENTS__RETRY_MILLISECONDS=RETRY) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with wire_to(server) as wire:
        yield wire


async def opened(wire: Wire, version: str) -> Wire:
    """Return the client with a session of this revision, or with what stands in every request of the stateless era."""
    if version != STATELESS:
        return await wire.open(version)
    wire.headers = {"MCP-Protocol-Version": STATELESS}
    return wire


def tool(wire: Wire, version: str, name: str, *, meta: dict[str, Any] | None = None, **arguments: Any) -> Any:
    """Return a call as this revision has it, and its headers."""
    given = {**(envelope() if version == STATELESS else {}), **(meta or {})}
    message = wire.call(name, meta=given, **arguments)
    return message, headers("tools/call", name) if version == STATELESS else {}


def methods(frames: list[Frame]) -> list[str]:
    return [frame.message["method"].removeprefix("notifications/") for frame in frames if "method" in frame.message]


CHANGES: Final = ["tools/list_changed", "prompts/list_changed", "resources/list_changed", "resources/updated"]


# ---------------------------------------------------------------- messages


@everywhere
async def test_messages_are_utf_8_in_both_directions(wire: Wire, version: str) -> None:
    await opened(wire, version)
    message, named = tool(wire, version, "echo", text="ä€𝄞")
    answer = await wire.post(message, **named)
    assert "ä€𝄞".encode() in answer.content
    message, named = tool(wire, version, "progress", steps=1, meta={"progressToken": "ä€𝄞"})
    streamed = await wire.post(message, **named)
    assert streamed.headers["Content-Type"] == "text/event-stream"
    assert '"progressToken":"ä€𝄞"'.encode() in streamed.content
    message, named = tool(wire, version, "echo", text="ä")
    sent = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json", **wire.headers}
    for charset, status in (("utf-8", 200), ("latin-1", 400), ("utf-16", 400)):
        body = json.dumps(message, ensure_ascii=False).encode(charset)
        refused = await wire.http.post(wire.server.url, content=body, headers={**sent, **named})
        assert refused.status_code == status
        assert status == 200 or error_code(refused) == "PARSE_ERROR"


# ---------------------------------------------------------------- the endpoint


@handshake
async def test_one_path_takes_post_get_and_delete(wire: Wire, version: str) -> None:
    await wire.open(version)
    async with wire.listen() as events:
        assert events.response.status_code == 200
        assert events.response.headers["Content-Type"] == "text/event-stream"
        assert (await wire.post(wire.request("ping"))).json()["result"] == {}
    assert (await wire.delete()).status_code == 204


@everywhere
async def test_another_origin_is_refused(wire: Wire, version: str) -> None:
    await opened(wire, version)
    message, named = tool(wire, version, "echo", text="x")
    for method in ("POST", "GET", "DELETE") if version != STATELESS else ("POST",):
        sent = {"Accept": "application/json, text/event-stream", "Origin": "https://evil.example", **wire.headers}
        body = message if method == "POST" else None
        refused = await wire.http.request(method, wire.server.url, json=body, headers={**sent, **named})
        assert (refused.status_code, error_code(refused)) == (403, "FORBIDDEN_ORIGIN")
        assert refused.json()["id"] is None
    for origin in ({"Origin": "http://localhost:5173"}, {}):
        assert (await wire.post(message, **named, **origin)).status_code == 200


def test_only_this_machine_is_listened_to_unless_told_otherwise(server: Server) -> None:
    listening = [each for each in psutil.Process(server.pid).net_connections() if each.status == psutil.CONN_LISTEN]
    assert [each.laddr.ip for each in listening] == ["127.0.0.1"]


async def test_the_transport_of_2024_11_05_is_not_served(wire: Wire) -> None:
    """What its clients try first is refused, so they know: there is no `endpoint` event."""
    for method, path, status in (("GET", "/mcp", 400), ("GET", "/sse", 404), ("POST", "/messages", 404)):
        response = await wire.http.request(method, wire.server.origin + path, headers={"Accept": "text/event-stream"})
        assert response.status_code == status
        assert "endpoint" not in response.text


# ---------------------------------------------------------------- sending messages


NOTIFICATION: Final = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
RESPONSE: Final = {"jsonrpc": "2.0", "id": "nobody asked", "result": {}}
ERROR: Final = {"jsonrpc": "2.0", "id": "nobody asked", "error": {"code": -1, "message": "no"}}


@pytest.mark.parametrize(
    ("version", "message"),
    [
        *((version, message) for version in HANDSHAKE for message in (NOTIFICATION, RESPONSE, ERROR)),
        *(("2025-03-26", batch) for batch in ([NOTIFICATION], [RESPONSE, ERROR], [NOTIFICATION, RESPONSE])),
        (STATELESS, NOTIFICATION),
    ],
)
async def test_what_needs_no_answer_is_accepted_without_a_body(wire: Wire, version: str, message: Any) -> None:
    await opened(wire, version)
    accepted = await wire.post(message)
    assert (accepted.status_code, accepted.content) == (202, b"")
    assert "Content-Type" not in accepted.headers


@pytest.mark.parametrize(
    ("version", "message"),
    [
        *((version, {**NOTIFICATION, "method": 7}) for version in (*HANDSHAKE, STATELESS)),
        *((version, {**RESPONSE, "error": {}}) for version in (*HANDSHAKE, STATELESS)),
        *((version, [NOTIFICATION]) for version in ("2025-06-18", LATEST, STATELESS)),
        ("2025-03-26", [NOTIFICATION, {**NOTIFICATION, "method": 7}]),
        ("2025-03-26", []),
        (STATELESS, RESPONSE),
    ],
)
async def test_what_cannot_be_accepted_is_refused(wire: Wire, version: str, message: Any) -> None:
    await opened(wire, version)
    refused = await wire.post(message)
    assert (refused.status_code, error_code(refused)) == (400, "INVALID_REQUEST")
    assert refused.json()["id"] is None


async def test_a_notification_of_a_revision_that_is_not_served_is_refused(wire: Wire) -> None:
    notification = {**NOTIFICATION, "params": {"_meta": envelope("2099-01-01")}}
    refused = await wire.post(notification, MCP_Protocol_Version="2099-01-01")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, UNSUPPORTED_VERSION)
    assert (await wire.post(NOTIFICATION, MCP_Protocol_Version="2099-01-01")).status_code == 400


@handshake
async def test_nothing_is_accepted_for_a_session_that_is_not_there(wire: Wire, version: str) -> None:
    await wire.open(version)
    for message in (NOTIFICATION, RESPONSE):
        without = await wire.fork().post(message, MCP_Protocol_Version=version)
        assert (without.status_code, error_code(without)) == (400, "SESSION_REQUIRED")
    await wire.delete()
    for message in (NOTIFICATION, RESPONSE):
        assert (await wire.post(message)).status_code == 404


@everywhere
async def test_a_request_is_answered_with_json_or_a_stream(wire: Wire, version: str) -> None:
    await opened(wire, version)
    message, named = tool(wire, version, "echo", text="x")
    answer = await wire.post(message, **named)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["id"] == message["id"]
    message, named = tool(wire, version, "progress", steps=2, meta={"progressToken": "p"})
    async with wire.stream(message, **named) as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        frames = [frame for frame in await events.rest() if frame.message is not None]
    assert methods(frames) == ["progress"] * 2
    assert frames[-1].message["id"] == message["id"], "the answer is the last thing, and ends the stream"


@pytest.mark.parametrize("accept", ["text/html", "application/json", "text/event-stream"])
@everywhere
async def test_what_a_client_cannot_read_is_not_sent(wire: Wire, version: str, accept: str) -> None:
    await opened(wire, version)
    message, named = tool(wire, version, "echo", text="x")
    refused = await wire.post(message, **named, Accept=accept)
    assert (refused.status_code, error_code(refused)) == (406, "NOT_ACCEPTABLE")


@everywhere
async def test_streams_are_not_to_be_buffered(wire: Wire, version: str) -> None:
    await opened(wire, version)
    message, named = tool(wire, version, "progress", steps=1, meta={"progressToken": "p"})
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(wire.stream(message, **named))]
        if version == STATELESS:
            request = wire.request("subscriptions/listen", {"notifications": {}, "_meta": envelope()})
            streams.append(await stack.enter_async_context(wire.stream(request, **headers("subscriptions/listen"))))
        else:
            streams.append(await stack.enter_async_context(wire.listen()))
        for events in streams:
            assert events.response.headers["Content-Type"] == "text/event-stream"
            assert events.response.headers["X-Accel-Buffering"] == "no"


@everywhere
async def test_a_stream_holds_what_belongs_to_its_own_request(wire: Wire, version: str) -> None:
    """Two calls run at the same time, and a third one says what belongs to none of them."""
    await opened(wire, version)
    gates = ("one", "other")
    wanted = {"io.modelcontextprotocol/logLevel": "info"}
    async with AsyncExitStack() as stack:
        running: dict[str, tuple[Any, Events]] = {}
        for gate in gates:
            first = gates.index(gate) * 10
            message, named = tool(wire, version, "logs_then_wait", meta=wanted, gate=gate, before=1, after=first + 2)
            running[gate] = (message, await stack.enter_async_context(wire.stream(message, **named)))
        for name, given in (("change", {}), ("open_gate", {"gate": "one"}), ("open_gate", {"gate": "other"})):
            message, named = tool(wire, version, name, **given)
            assert (await wire.post(message, **named)).headers["Content-Type"] == "application/json"
        for gate, (message, events) in running.items():
            frames = [frame for frame in await events.rest() if frame.message is not None]
            number = gates.index(gate) * 10 + 3
            assert log_data(frames) == [f"{index}:" for index in range(number)]
            assert methods(frames) == ["message"] * number
            assert [frame.message["id"] for frame in frames if "id" in frame.message] == [message["id"]]


@pytest.mark.parametrize("version", UNPRIMED)
async def test_a_stream_that_cannot_be_polled_is_not_closed_before_its_answer(wire: Wire, version: str) -> None:
    """A tool that closes the connection for the client to come back has no effect: the client would not."""
    await wire.open(version)
    async with wire.stream(wire.call("close_stream", gate="kept")) as events:
        await wire.tool("open_gate", gate="kept")
        frames = await events.rest()
    assert log_data(frames) == ["before", "while away", "after"]
    assert text_of(frames[-1].message) == "closed and came back"


async def test_who_closes_a_connection_says_when_to_come_back(wire: Wire) -> None:
    await wire.open()
    async with wire.stream(wire.call("close_stream", gate="polled")) as events:
        (primed, *_) = await events.rest()
    assert primed.retry == RETRY
    async with wire.listen(primed.id) as events:
        await wire.tool("open_gate", gate="polled")
        assert text_of((await events.rest())[-1].message) == "closed and came back"
    async with wire.listen() as events:
        await wire.tool("close_standalone")
        assert await events.rest() == [Frame(None, None, RETRY)], "nothing else has been said"
    async with wire.listen() as events:
        await wire.tool("change")
        assert (await events.next() or primed).retry == RETRY
        await wire.tool("close_standalone")
        assert [frame.retry for frame in await events.rest()] == [None] * 3, "said once on a connection"


@handshake
async def test_a_disconnect_is_no_cancellation(wire: Wire, version: str) -> None:
    await wire.open(version)
    gate = f"left {version}"
    async with wire.stream(wire.call("logs_then_wait", gate=gate, before=1, after=1)) as events:
        last = (await read(events, 2 if version == LATEST else 1))[-1]
    await wire.tool("open_gate", gate=gate)
    async with wire.listen(last.id) as events:
        assert text_of((await events.rest())[-1].message) == "logged"
    silent = f"silent {version}"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wire.post, wire.call("wait_at", gate=silent))
        await wire.tool("seen", what=f"{silent}: started")
        tasks.cancel_scope.cancel()
    await wire.tool("open_gate", gate=silent)
    assert await wire.tool("seen", what=f"{silent}: finished")
    assert await wire.tool("holds", what=f"{silent}: cancelled") == "false"


# ---------------------------------------------------------------- listening


@handshake
async def test_every_message_goes_out_on_one_stream(wire: Wire, version: str) -> None:
    """Three streams are read at once: each holds what is its own, and no event id comes twice in the session."""
    await wire.open(version)
    async with (
        wire.listen() as standalone,
        wire.stream(wire.call("logs_then_wait", gate="a", before=2, after=2, id="a")) as one,
        wire.stream(wire.call("progress", steps=3, meta={"progressToken": "p"}, id="b")) as other,
    ):
        await wire.tool("change")
        await wire.tool("open_gate", gate="a")
        of_one, of_other = await one.rest(), await other.rest()
        unasked = await read(standalone, 4)
        await wire.tool("change")
        unasked += await read(standalone, 4)
    assert methods(unasked) == CHANGES * 2, "neither answers nor what belongs to a call"
    spoken = [[frame for frame in frames if frame.message is not None] for frames in (of_one, of_other)]
    assert methods(spoken[0]) == ["message"] * 4
    assert methods(spoken[1]) == ["progress"] * 3
    assert [frames[-1].message["id"] for frames in spoken] == ["a", "b"]
    ids = [frame.id for frame in (*unasked, *of_one, *of_other)]
    assert None not in ids
    assert len(set(ids)) == len(ids)


async def test_an_event_id_tells_its_stream(wire: Wire) -> None:
    await wire.open()
    async with wire.listen() as standalone, wire.stream(wire.call("logs", number=2)) as one:
        await wire.tool("change")
        of_one, unasked = await one.rest(), await read(standalone, 4)
    async with wire.stream(wire.call("logs", number=2)) as other:
        of_other = await other.rest()
    streams = [
        {parsed.stream for frame in frames if (parsed := EventId.parse(frame.id or "")) is not None}
        for frames in (of_one, of_other, unasked)
    ]
    assert [len(names) for names in streams] == [1, 1, 1]
    assert len(set.union(*streams)) == 3


@handshake
async def test_a_stream_that_broke_is_resumed_and_no_other(wire: Wire, version: str) -> None:
    await wire.open(version)
    async with (
        wire.stream(wire.call("logs_then_wait", gate="broken", before=1, after=2, id="broken")) as broken,
        wire.listen() as standalone,
    ):
        await wire.tool("change")
        unasked = await read(standalone, 1)
        seen = [frame for frame in await read(broken, 2 if version == LATEST else 1) if frame.message is not None]
    async with wire.stream(wire.call("logs", number=3)) as events:
        others = await events.rest()
    await wire.tool("change")
    await wire.tool("open_gate", gate="broken")
    async with wire.listen(seen[-1].id) as events:
        seen += await events.rest()
    assert log_data(seen) == ["0:", "1:", "2:"]
    assert methods(seen) == ["message"] * 3
    assert seen[-1].message["id"] == "broken"
    async with wire.listen(unasked[-1].id) as events:
        assert methods(await read(events, 7)) == CHANGES[1:] + CHANGES
    async with wire.listen(others[0].id) as events:
        assert [frame.id for frame in await events.rest()] == [frame.id for frame in others[1:]]


async def test_who_resumes_a_stream_that_is_still_read_reads_it_twice(wire: Wire) -> None:
    """It is one stream, and the ids of the events are the same."""
    await wire.open()
    async with wire.stream(wire.call("logs_then_wait", gate="twice", before=1, after=1)) as first:
        (primed,) = await read(first, 1)
        async with wire.listen(primed.id) as second:
            await wire.tool("open_gate", gate="twice")
            frames = await first.rest()
            assert [frame.id for frame in await second.rest()] == [frame.id for frame in frames]
    assert len(frames) == 3


# ---------------------------------------------------------------- sessions, and the revision they speak


@handshake
async def test_ids_of_sessions_are_long_and_visible_ascii(wire: Wire, version: str) -> None:
    ids = {(await wire.initialize(version)).headers["Mcp-Session-Id"] for _ in range(10)}
    assert len(ids) == 10
    for session_id in ids:
        assert len(session_id) == 43
        assert all("!" <= character <= "~" for character in session_id)


@handshake
async def test_a_request_without_its_session_is_refused(wire: Wire, version: str) -> None:
    await wire.open(version)
    del wire.headers["Mcp-Session-Id"]
    refused = await wire.post(wire.request("ping"))
    assert (refused.status_code, error_code(refused)) == (400, "SESSION_REQUIRED")
    for method in ("GET", "DELETE"):
        sent = {"Accept": "text/event-stream", **wire.headers}
        refused = await wire.http.request(method, wire.server.url, headers=sent)
        assert (refused.status_code, error_code(refused)) == (400, "SESSION_REQUIRED")


@handshake
async def test_a_session_that_has_ended_is_not_found(wire: Wire, version: str) -> None:
    await wire.open(version)
    assert (await wire.delete()).status_code == 204
    assert (await wire.post(wire.request("ping"))).status_code == 404
    assert (await wire.delete()).status_code == 404
    async with wire.listen() as events:
        assert events.response.status_code == 404
    assert "Mcp-Session-Id" in (await wire.fork().initialize(version)).headers


@pytest.mark.parametrize("version", HANDSHAKE)
async def test_without_the_header_a_session_speaks_what_was_negotiated(wire: Wire, version: str) -> None:
    await wire.open(version)
    del wire.headers["MCP-Protocol-Version"]
    batch = await wire.post([wire.request("ping")])
    assert batch.status_code == (200 if version == "2025-03-26" else 400)
    async with wire.stream(wire.call("logs", number=1)) as events:
        assert (await events.rest())[0].is_priming == (version == LATEST)


@pytest.mark.parametrize("wrong", ["1999-01-01", "2099-01-01", "nonsense", "", "2025-11-25, 2025-06-18"])
@handshake
async def test_a_revision_that_is_not_spoken_is_refused(wire: Wire, version: str, wrong: str) -> None:
    assert (await wire.fork().post(wire.request("initialize"), MCP_Protocol_Version=wrong)).status_code == 400
    await wire.open(version)
    wire.headers["MCP-Protocol-Version"] = wrong
    for response in (await wire.post(wire.request("ping")), await wire.delete()):
        assert (response.status_code, error_code(response)) == (400, "UNSUPPORTED_PROTOCOL_VERSION")
    async with wire.listen() as events:
        assert events.response.status_code == 400
    wire.headers["MCP-Protocol-Version"] = version
    assert (await wire.post(wire.request("ping"))).status_code == 200


# ---------------------------------------------------------------- the stateless era


async def test_nothing_of_earlier_revisions_is_in_the_stateless_era(wire: Wire) -> None:
    """No session is made, none is looked at, and there is nothing to resume."""
    await wire.open()
    async with wire.stream(wire.call("logs", number=2)) as events:
        ids = [frame.id or "" for frame in await events.rest()]
    session_id, wire.headers = wire.session_id, {}
    for given in ({"Mcp-Session-Id": session_id}, {"Mcp-Session-Id": "dead"}, {"Last-Event-ID": ids[0]}):
        meta = envelope(progressToken="p")
        message, named = wire.call("progress", meta=meta, steps=2), headers("tools/call", "progress")
        async with wire.stream(message, **named, **given) as events:
            frames = await events.rest()
            assert "Mcp-Session-Id" not in events.response.headers
        assert [frame.id for frame in frames] == [None] * 3
        assert methods(frames) == ["progress"] * 2


async def test_a_subscription_hears_nothing_of_other_requests(wire: Wire) -> None:
    listen = wire.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}, "_meta": envelope()})
    meta = envelope(**{"progressToken": "p", "io.modelcontextprotocol/logLevel": "info"})
    async with wire.stream(listen, **headers("subscriptions/listen")) as events:
        await acknowledged(events)
        for name, given in (("progress", {"steps": 2}), ("logs", {"number": 2})):
            async with wire.stream(wire.call(name, meta=meta, **given), **headers("tools/call", name)) as talking:
                assert len(await talking.rest()) == 3
        await call(wire, "publish")
        assert (await events.message())["method"] == "notifications/tools/list_changed"


async def test_what_a_client_cannot_do_is_not_asked_of_it(wire: Wire) -> None:
    response = await call(wire, "greet")
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": {"elicitation": {"form": {}}}})


@pytest.mark.parametrize("missing", ["protocolVersion", "clientCapabilities"])
async def test_an_envelope_that_is_not_whole_is_refused(wire: Wire, missing: str) -> None:
    meta = envelope()
    del meta[f"io.modelcontextprotocol/{missing}"]
    response = await wire.post(wire.request("tools/list", {"_meta": meta}), **headers("tools/list"))
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32602)


@pytest.mark.parametrize("method", ["nonesuch", "ping", "initialize", "resources/subscribe", "logging/setLevel"])
async def test_a_method_that_is_not_served_is_not_found(wire: Wire, method: str) -> None:
    response = await wire.post(wire.request(method, {"_meta": envelope()}), **headers(method))
    assert (response.status_code, response.json()["error"]["code"]) == (404, -32601)


async def test_results_say_who_answers(wire: Wire) -> None:
    for method in ("server/discover", "tools/list"):
        result = (await wire.post(wire.request(method, {"_meta": envelope()}), **headers(method))).json()["result"]
        assert result["resultType"] == "complete"
        assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "everything"


async def test_a_resource_that_is_not_there_has_the_code_of_its_revision(wire: Wire) -> None:
    named = headers("resources/read", "memo://nonesuch/at/all")
    request = wire.request("resources/read", {"uri": "memo://nonesuch/at/all", "_meta": envelope()})
    assert (await wire.post(request, **named)).json()["error"]["code"] == -32602
