"""MCP in short plain requests: send, receive, abort."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import httpx
import pytest

from tests.integration.conftest import DEADLINE, Server, StartServer, Wire, error_code, text_of, until, wire_to

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server() as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with wire_to(server) as wire:
        yield await wire.open(capabilities={"elicitation": {}})


async def send(wire: Wire, message: Any) -> httpx.Response:
    return await wire.post(message, "/send")


async def receive(wire: Wire, after: str | None = None, wait: float = 20) -> Any:
    query = f"?wait={wait}" + (f"&after={after}" if after is not None else "")
    headers = {**wire.headers, "Accept": "application/json"}
    response = await wire.http.get(f"{wire.server.url}/receive{query}", headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


async def receive_until_answer(wire: Wire, after: str | None = None) -> tuple[list[Any], str]:
    """Receive until there is a response among the messages."""
    messages: list[Any] = []
    with anyio.fail_after(DEADLINE):
        while True:
            received = await receive(wire, after)
            after = received["after"]
            messages += [event["message"] for event in received["events"]]
            if any("method" not in message for message in messages):
                return messages, str(after)


async def test_send_accepts_and_receive_answers(wire: Wire) -> None:
    accepted = await send(wire, wire.call("echo", text="ä", id="mine"))
    assert accepted.status_code == 202
    assert accepted.json() == {"accepted": "mine"}
    messages, _ = await receive_until_answer(wire)
    assert [message["id"] for message in messages] == ["mine"]
    assert text_of(messages[0]) == "ä"


async def test_a_notification_is_accepted_too(wire: Wire) -> None:
    accepted = await send(wire, {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
    assert accepted.status_code == 202
    assert accepted.json() == {"accepted": None}


async def test_what_a_call_says_comes_in_order(wire: Wire) -> None:
    await send(wire, wire.call("logs", number=250, id=1))
    messages, _ = await receive_until_answer(wire)
    assert [message["params"]["data"] for message in messages[:-1]] == [f"{index}:" for index in range(250)]
    assert text_of(messages[-1]) == "logged"


async def test_reading_again_gives_the_same_events(wire: Wire) -> None:
    await send(wire, wire.call("logs", number=5, id=1))
    await until(lambda: _has(wire, 6))
    first = await receive(wire)
    again = await receive(wire)
    assert first == again
    middle = first["events"][2]["id"]
    assert (await receive(wire, middle))["events"] == first["events"][3:]
    assert (await receive(wire, first["after"], wait=0)) == {"events": [], "after": first["after"]}


async def _has(wire: Wire, number: int) -> bool:
    return len((await receive(wire, wait=0))["events"]) == number


async def test_nothing_to_receive_gives_back_where_it_was(wire: Wire) -> None:
    assert await receive(wire, wait=0) == {"events": [], "after": None}
    assert await receive(wire, wait=0.05) == {"events": [], "after": None}
    assert (await receive(wire, "nonsense", wait=0))["after"] == "nonsense"


async def test_a_long_poll_waits_for_what_comes(wire: Wire) -> None:
    received: list[Any] = []

    async def poll() -> None:
        received.append(await receive(wire, wait=60))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poll)
        await wire.tool("echo", text="the answer to a POST is no event of receive")
        await wire.tool("change")
    assert received[0]["events"][0]["message"]["method"] == "notifications/tools/list_changed"


async def test_receive_shows_the_standalone_stream_and_the_answers_to_send(wire: Wire) -> None:
    async with wire.listen() as standalone:
        await send(wire, wire.call("logs", number=1, id=1))
        messages, after = await receive_until_answer(wire)
        assert len(messages) == 2
        async with wire.stream(wire.call("logs", number=3)) as events:
            await events.rest()
        await wire.tool("change")
        shown = (await receive(wire, after))["events"]
        methods = [event["message"]["method"] for event in shown]
        assert methods[0] == "notifications/tools/list_changed"
        assert "notifications/message" not in methods, "a POST's stream is its own"
        message = await standalone.message()
        assert message["method"] == "notifications/tools/list_changed", "GET shows the standalone stream alone"


async def test_receive_as_a_stream(wire: Wire) -> None:
    async with wire.listen(path="/receive", Accept="text/event-stream") as events:
        assert events.response.headers["Content-Type"] == "text/event-stream"
        await send(wire, wire.call("logs", number=2, id="s"))
        frames = [await events.next() for _ in range(3)]
        assert [frame.message.get("id") for frame in frames if frame] == [None, None, "s"]
        assert not any(frame.is_priming for frame in frames if frame)
        await wire.tool("change")
        assert (await events.message())["method"] == "notifications/tools/list_changed"
    first = frames[0]
    assert first is not None
    for resume in ({"Last_Event_ID": first.id or ""}, {}):
        path = "/receive" if resume else f"/receive?after={first.id}"
        async with wire.listen(path=path, Accept="text/event-stream", **resume) as events:
            again = [await events.next() for _ in range(2)]
            assert [frame.id for frame in again if frame] == [frame.id for frame in frames[1:] if frame]


async def test_a_question_in_the_background(wire: Wire) -> None:
    await send(wire, wire.call("elicit", id=8))
    received = await receive(wire)
    (question,) = [event["message"] for event in received["events"]]
    assert question["method"] == "elicitation/create"
    answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "Ada"}}}
    assert (await send(wire, answer)).status_code == 202
    messages, _ = await receive_until_answer(wire, received["after"])
    assert text_of(messages[-1]) == "Ada"


async def test_abort_cancels_a_call_in_the_background(wire: Wire) -> None:
    await send(wire, wire.call("wait_at", gate="abort", id="job"))
    await wire.tool("seen", what="abort: started")
    aborted = await wire.post({"requestId": "job", "reason": "enough"}, "/abort")
    assert aborted.status_code == 202
    messages, _ = await receive_until_answer(wire)
    assert messages[-1]["id"] == "job"
    assert messages[-1]["error"]["code"] == -32800
    assert await wire.tool("seen", what="abort: cancelled")
    again = await wire.post({"requestId": "job"}, "/abort")
    assert (again.status_code, error_code(again)) == (404, "REQUEST_NOT_FOUND")


async def test_abort_cancels_a_call_of_a_post(wire: Wire) -> None:
    async with wire.stream(wire.call("logs_then_wait", gate="abort-post", before=1, after=0, id=12)) as events:
        assert await events.message()
        await wire.tool("seen", what="abort-post: started")
        assert (await wire.post({"requestId": 12}, "/abort")).status_code == 202
        assert (await events.message())["error"]["code"] == -32800


async def test_abort_cancels_a_call_that_waits_for_the_client(wire: Wire) -> None:
    """The client is told that its answer is no longer wanted."""
    async with wire.stream(wire.call("elicit_until_cancelled", gate="asked", id=13)) as events:
        question = await events.message()
        assert (await wire.post({"requestId": 13}, "/abort")).status_code == 202
        messages = [frame.message for frame in await events.rest()]
    assert messages[-1]["error"]["code"] == -32800
    assert await wire.tool("seen", what="asked: cancelled")
    late = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
    assert (await wire.post(late)).status_code == 202


async def test_nothing_to_abort(wire: Wire) -> None:
    other = await wire.fork().open()
    async with other.stream(other.call("wait_at", gate="theirs", id=99)):
        await wire.tool("seen", what="theirs: started")
        response = await wire.post({"requestId": 99}, "/abort")
        assert (response.status_code, error_code(response)) == (404, "REQUEST_NOT_FOUND")
    await wire.tool("open_gate", gate="theirs")


@pytest.mark.parametrize("body", [{}, [], {"requestId": None}, {"requestId": True}, {"requestId": 1.5}, "x"])
async def test_bad_aborts_are_refused(wire: Wire, body: object) -> None:
    response = await wire.post(body, "/abort")
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "long"])
async def test_bad_waits_are_refused(wire: Wire, wait: str) -> None:
    response = await wire.http.get(f"{wire.server.url}/receive?wait={wait}", headers=wire.headers)
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(("method", "path"), [("POST", "/send"), ("GET", "/receive"), ("POST", "/abort")])
async def test_a_session_is_needed(wire: Wire, method: str, path: str) -> None:
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
        await wire.tool("echo", text="a turn")
        await wire.delete()
    assert (responses[0].status_code, error_code(responses[0])) == (404, "SESSION_NOT_FOUND")


async def test_initialize_is_not_sent_here(wire: Wire) -> None:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "w", "version": "1"}}
    response = await send(wire, wire.request("initialize", params))
    assert (response.status_code, error_code(response)) == (400, "INVALID_REQUEST")
