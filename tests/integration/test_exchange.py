"""The plain routes `/mcp/send`, `/mcp/receive` and `/mcp/abort`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import httpx
import pytest

from tests.integration.server_process import Server, StartServer
from tests.integration.waiting import wait_until
from tests.integration.wire import Wire, answer_text, error_code, has_response, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server() as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with open_wire(server) as wire:
        yield await wire.open_session(capabilities={"elicitation": {}})


async def send(wire: Wire, message: Any) -> httpx.Response:
    return await wire.post(message, "/send")


async def receive_answer(wire: Wire, after: str | None = None) -> tuple[list[Any], str | None]:
    """Receive messages up to an answer; return them, and the id to resume after."""
    events, after = await wire.receive_until(has_response, after)
    return [event["message"] for event in events], after


async def test_send_accepts_a_request_and_receive_returns_its_answer(wire: Wire) -> None:
    accepted = await send(wire, wire.tool_request("echo", text="ä", id="mine"))
    assert accepted.status_code == 202
    assert accepted.json() == {"accepted": "mine"}
    messages, _ = await receive_answer(wire)
    assert [message["id"] for message in messages] == ["mine"]
    assert answer_text(messages[0]) == "ä"


async def test_send_accepts_a_notification(wire: Wire) -> None:
    accepted = await send(wire, {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
    assert accepted.status_code == 202
    assert accepted.json() == {"accepted": None}


async def test_messages_of_a_call_are_received_in_order(wire: Wire) -> None:
    await send(wire, wire.tool_request("logs", number=250, id=1))
    messages, _ = await receive_answer(wire)
    assert [message["params"]["data"] for message in messages[:-1]] == [f"{index}:" for index in range(250)]
    assert answer_text(messages[-1]) == "logged"


async def test_receiving_again_returns_the_same_events(wire: Wire) -> None:
    await send(wire, wire.tool_request("logs", number=5, id=1))

    async def has_all_events() -> bool:
        return len((await wire.receive(wait_seconds=0))["events"]) == 6

    await wait_until(has_all_events, "there are 6 events")
    first = await wire.receive()
    again = await wire.receive()
    assert first == again
    middle = first["events"][2]["id"]
    assert (await wire.receive(middle))["events"] == first["events"][3:]
    assert (await wire.receive(first["after"], wait_seconds=0)) == {"events": [], "after": first["after"]}


async def test_receive_without_events_returns_the_given_event_id(wire: Wire) -> None:
    assert await wire.receive(wait_seconds=0) == {"events": [], "after": None}
    assert await wire.receive(wait_seconds=0.05) == {"events": [], "after": None}
    assert (await wire.receive("nonsense", wait_seconds=0))["after"] == "nonsense"


async def test_a_long_poll_waits_for_an_event(wire: Wire) -> None:
    received: list[Any] = []

    async def poll() -> None:
        received.append(await wire.receive(wait_seconds=60))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poll)
        await wire.call_tool("echo", text="the answer to a POST is not received")
        await wire.call_tool("change")
    assert received[0]["events"][0]["message"]["method"] == "notifications/tools/list_changed"


async def test_receive_shows_the_standalone_stream_and_the_answers_to_send(wire: Wire) -> None:
    async with wire.get_stream() as standalone:
        await send(wire, wire.tool_request("logs", number=1, id=1))
        messages, after = await receive_answer(wire)
        assert len(messages) == 2
        async with wire.post_stream(wire.tool_request("logs", number=3)) as events:
            await events.read_to_end()
        await wire.call_tool("change")
        shown = (await wire.receive(after))["events"]
        methods = [event["message"]["method"] for event in shown]
        assert methods[0] == "notifications/tools/list_changed"
        assert "notifications/message" not in methods, "receive must not show the stream of a POST"
        message = await standalone.next_message()
        assert message["method"] == "notifications/tools/list_changed", "GET must show only the standalone stream"


async def test_receive_can_be_a_stream(wire: Wire) -> None:
    async with wire.get_stream(path="/receive", Accept="text/event-stream") as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        await send(wire, wire.tool_request("logs", number=2, id="s"))
        frames = [await events.next_frame() for _ in range(3)]
        assert [frame.message.get("id") for frame in frames if frame] == [None, None, "s"]
        assert not any(frame.is_priming for frame in frames if frame)
        await wire.call_tool("change")
        assert (await events.next_message())["method"] == "notifications/tools/list_changed"
    first = frames[0]
    assert first is not None
    for resume in ({"Last_Event_ID": first.id or ""}, {}):
        path = "/receive" if resume else f"/receive?after={first.id}"
        async with wire.get_stream(path=path, Accept="text/event-stream", **resume) as events:
            again = [await events.next_frame() for _ in range(2)]
            assert [frame.id for frame in again if frame] == [frame.id for frame in frames[1:] if frame]


async def test_a_background_call_can_ask_the_client(wire: Wire) -> None:
    await send(wire, wire.tool_request("elicit", id=8))
    received = await wire.receive()
    (question,) = [event["message"] for event in received["events"]]
    assert question["method"] == "elicitation/create"
    answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "Ada"}}}
    assert (await send(wire, answer)).status_code == 202
    messages, _ = await receive_answer(wire, received["after"])
    assert answer_text(messages[-1]) == "Ada"


async def test_abort_cancels_a_background_call(wire: Wire) -> None:
    await send(wire, wire.tool_request("wait_at", gate="abort", id="job"))
    await wire.call_tool("wait_for_note", note="abort: started")
    aborted = await wire.post({"requestId": "job", "reason": "enough"}, "/abort")
    assert aborted.status_code == 202
    messages, _ = await receive_answer(wire)
    assert messages[-1]["id"] == "job"
    assert messages[-1]["error"]["code"] == -32800
    assert await wire.call_tool("wait_for_note", note="abort: cancelled")
    again = await wire.post({"requestId": "job"}, "/abort")
    assert (again.status_code, error_code(again)) == (404, "REQUEST_NOT_FOUND")


async def test_abort_cancels_a_call_of_a_post(wire: Wire) -> None:
    async with wire.post_stream(
        wire.tool_request("logs_then_wait", gate="abort-post", before=1, after=0, id=12)
    ) as events:
        assert await events.next_message()
        await wire.call_tool("wait_for_note", note="abort-post: started")
        assert (await wire.post({"requestId": 12}, "/abort")).status_code == 202
        assert (await events.next_message())["error"]["code"] == -32800


async def test_abort_cancels_a_call_that_waits_for_a_reply(wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("elicit_until_cancelled", gate="asked", id=13)) as events:
        question = await events.next_message()
        assert (await wire.post({"requestId": 13}, "/abort")).status_code == 202
        messages = [frame.message for frame in await events.read_to_end()]
    assert messages[-1]["error"]["code"] == -32800
    assert await wire.call_tool("wait_for_note", note="asked: cancelled")
    late = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
    assert (await wire.post(late)).status_code == 202


async def test_abort_of_a_call_of_another_session_is_not_found(wire: Wire) -> None:
    other = await wire.new_client().open_session()
    async with other.post_stream(other.tool_request("wait_at", gate="other", id=99)):
        await wire.call_tool("wait_for_note", note="other: started")
        response = await wire.post({"requestId": 99}, "/abort")
        assert (response.status_code, error_code(response)) == (404, "REQUEST_NOT_FOUND")
    await wire.call_tool("open_gate", gate="other")


@pytest.mark.parametrize("body", [{}, [], {"requestId": None}, {"requestId": True}, {"requestId": 1.5}, "x"])
async def test_malformed_aborts_are_refused(wire: Wire, body: object) -> None:
    response = await wire.post(body, "/abort")
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "long"])
async def test_invalid_wait_times_are_refused(wire: Wire, wait: str) -> None:
    response = await wire.http.get(f"{wire.server.url}/receive?wait={wait}", headers=wire.headers)
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(("method", "path"), [("POST", "/send"), ("GET", "/receive"), ("POST", "/abort")])
async def test_the_plain_routes_need_a_session(wire: Wire, method: str, path: str) -> None:
    url = wire.server.url + path
    response = await wire.http.request(method, url, json={} if method == "POST" else None)
    assert (response.status_code, error_code(response)) == (400, "SESSION_REQUIRED")
    await wire.delete()
    response = await wire.http.request(
        method, url, json={"requestId": 1} if method == "POST" else None, headers=wire.headers
    )
    assert (response.status_code, error_code(response)) == (404, "SESSION_NOT_FOUND")


async def test_delete_ends_a_long_poll(wire: Wire) -> None:
    responses: list[httpx.Response] = []

    async def poll() -> None:
        responses.append(await wire.http.get(f"{wire.server.url}/receive?wait=60", headers=wire.headers))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poll)
        await wire.call_tool("echo", text="the poll has begun when this call is answered")
        await wire.delete()
    assert (responses[0].status_code, error_code(responses[0])) == (404, "SESSION_NOT_FOUND")


async def test_send_refuses_initialize(wire: Wire) -> None:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "w", "version": "1"}}
    response = await send(wire, wire.request("initialize", params))
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")
