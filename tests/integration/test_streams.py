"""Answers to a POST on the wire: as JSON or as a stream, and their end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import anyio
import pytest

from tests.integration.server_process import Server, StartServer
from tests.integration.wire import LATEST, UNPRIMED, Frame, Wire, answer_text, error_code, log_data, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(EVENTS__STREAM_AFTER_SECONDS=0.2, EVENTS__RETRY_MILLISECONDS=321) as server:
        yield server


@pytest.fixture(scope="module")
def small_log(start_server: StartServer) -> Generator[Server]:
    """A server whose event log holds 5 events of a session, and that sends keep-alive comments often."""
    with start_server(EVENTS__MAX_PER_SESSION=5, SERVER__KEEPALIVE_SECONDS=0.1, EVENTS__MAX_BYTES=50_000_000) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with open_wire(server) as wire:
        yield await wire.open_session()


@pytest.fixture
async def small_log_wire(small_log: Server) -> AsyncGenerator[Wire]:
    async with open_wire(small_log) as wire:
        yield await wire.open_session()


# ---------------------------------------------------------------- answers to a POST


async def test_a_quick_silent_call_is_answered_with_json(wire: Wire) -> None:
    response = await wire.post(wire.tool_request("echo", text="ä", id="q"))
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["id"] == "q"
    assert answer_text(response.json()) == "ä"


async def test_a_slow_silent_call_becomes_a_primed_stream(wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("wait_at", gate="primed", id=77)) as events:
        assert events.response.status_code == 200
        assert events.response.headers["Content-Type"] == "text/event-stream"
        first = await events.next_frame()
        assert first is not None
        assert first.is_priming
        assert first.retry == 321
        await wire.call_tool("open_gate", gate="primed")
        answer, *more = await events.read_to_end()
        assert more == []
        assert answer.message["id"] == 77
        assert answer_text(answer.message) == "through primed"
        assert answer.id is not None
        assert answer.id > (first.id or "")


async def test_older_revisions_get_no_priming_event(server: Server) -> None:
    async with open_wire(server) as wire:
        await wire.open_session(UNPRIMED)
        async with wire.post_stream(wire.tool_request("wait_at", gate="unprimed")) as events:
            assert events.response.headers["Content-Type"] == "text/event-stream"
            await wire.call_tool("open_gate", gate="unprimed")
            (frame,) = await events.read_to_end()
            assert answer_text(frame.message) == "through unprimed"


@pytest.mark.parametrize("version", [LATEST, UNPRIMED])
async def test_a_call_that_sends_a_message_becomes_a_stream_at_once(server: Server, version: str) -> None:
    async with open_wire(server) as wire:
        await wire.open_session(version)
        async with wire.post_stream(wire.tool_request("logs", number=3)) as events:
            frames = await events.read_to_end()
        assert [frame.is_priming for frame in frames] == [True, *[False] * 4][version == UNPRIMED :]
        assert log_data(frames) == ["0:", "1:", "2:"]
        assert answer_text(frames[-1].message) == "logged"
        ids = [frame.id for frame in frames]
        assert ids == sorted(set(ids), key=str)


async def test_notifications_and_replies_are_accepted(wire: Wire) -> None:
    for message in (
        {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
        {"jsonrpc": "2.0", "id": "no such question", "result": {}},
    ):
        response = await wire.post(message)
        assert (response.status_code, response.content) == (202, b"")


async def test_progress_is_sent_only_on_request(wire: Wire) -> None:
    response = await wire.post(wire.tool_request("progress", steps=3))
    assert response.headers["Content-Type"] == "application/json"
    async with wire.post_stream(wire.tool_request("progress", steps=3, meta={"progressToken": "tok"})) as events:
        messages = [frame.message for frame in await events.read_to_end() if frame.message]
    assert [message["params"]["progress"] for message in messages[:-1]] == [1, 2, 3]
    assert {message["params"]["progressToken"] for message in messages[:-1]} == {"tok"}


async def test_a_slow_reader_gets_all_messages(wire: Wire) -> None:
    """The messages, 15 MB, exceed the buffers of the sockets and the event log."""
    async with wire.post_stream(wire.tool_request("logs", number=60, size=250_000)) as events:
        assert (await wire.post(wire.tool_request("echo", text="x"))).status_code == 200
        frames = await events.read_to_end()
    assert [data.partition(":")[0] for data in log_data(frames)] == [str(index) for index in range(60)]
    assert answer_text(frames[-1].message) == "logged"


# ---------------------------------------------------------------- cancelling


async def test_a_cancelled_call_is_answered(wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("wait_at", gate="cancel-wire", id=5)) as events:
        assert (await events.next_frame() or Frame(None, 0, None)).is_priming
        params = {"requestId": 5, "reason": "changed my mind"}
        cancelled = await wire.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        assert cancelled.status_code == 202
        (answer,) = await events.read_to_end()
    assert answer.message["id"] == 5
    assert answer.message["error"]["code"] == -32800
    assert await wire.call_tool("wait_for_note", note="cancel-wire: cancelled")


async def test_a_cancelled_call_of_a_plain_function_is_answered(wire: Wire) -> None:
    """Nothing can interrupt a plain function, but its client does not have to wait for it."""
    async with wire.post_stream(wire.tool_request("wait_in_thread", gate="thread", id="t")) as events:
        await wire.call_tool("wait_for_thread", gate="thread")
        await wire.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "t"}})
        answer = (await events.read_to_end())[-1]
        assert answer.message["error"]["code"] == -32800
    await wire.call_tool("open_gate", gate="thread")
    assert await wire.call_tool("echo", text="x") == "x"


async def test_one_session_cannot_cancel_a_call_of_another(server: Server, wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("wait_at", gate="mine", id=9)) as events:
        other = await wire.new_client().open_session()
        await other.call_tool("wait_for_note", note="mine: started")
        await other.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}})
        await other.call_tool("open_gate", gate="mine")
        assert answer_text((await events.read_to_end())[-1].message) == "through mine"


async def test_one_session_cannot_answer_a_question_of_another(wire: Wire) -> None:
    other = wire
    wire = await wire.new_client().open_session(capabilities={"elicitation": {}})
    async with wire.post_stream(wire.tool_request("elicit")) as events:
        question = await events.next_message()
        answer = {"action": "accept", "content": {"name": "attacker"}}
        await other.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
        answer = {"action": "accept", "content": {"name": "owner"}}
        await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
        assert answer_text(await events.next_message()) == "owner"


# ---------------------------------------------------------------- the end of a session


async def test_delete_ends_calls_and_streams(wire: Wire) -> None:
    other = await wire.new_client().open_session()
    async with (
        wire.get_stream() as standalone,
        wire.get_stream(path="/receive", Accept="text/event-stream") as received,
        wire.post_stream(wire.tool_request("wait_at", gate="deleted", id=3)) as running,
    ):
        assert (await running.next_frame() or Frame(None, 0, None)).is_priming
        response = await wire.delete()
        assert (response.status_code, response.content) == (204, b"")
        assert await standalone.read_to_end() == []
        assert await received.read_to_end() == []
        (answer,) = await running.read_to_end()
        assert answer.message["id"] == 3
        assert "error" in answer.message
    assert await other.call_tool("wait_for_note", note="deleted: cancelled")
    again = await wire.post(wire.tool_request("echo", text="x"))
    assert again.status_code == 404
    assert error_code(again) == "SESSION_NOT_FOUND"
    async with wire.get_stream() as events:
        assert events.response.status_code == 404
    assert (await wire.delete()).status_code == 404
    assert await other.call_tool("echo", text="x") == "x"


async def test_delete_answers_a_call_that_is_not_streamed_yet(server: Server) -> None:
    async with open_wire(server) as wire, anyio.create_task_group() as tasks:
        await wire.open_session()
        other = await wire.new_client().open_session()
        answers: list[int] = []

        async def call() -> None:
            response = await wire.post(wire.tool_request("wait_at", gate="quick-delete", id=4))
            answers.append(response.status_code)
            assert "error" in response.text

        tasks.start_soon(call)
        await other.call_tool("wait_for_note", note="quick-delete: started")
        assert (await wire.delete()).status_code == 204
    assert len(answers) == 1


async def test_every_stream_gets_keep_alive_comments(small_log_wire: Wire) -> None:
    async with small_log_wire.get_stream() as events:
        assert await events.next_comment()
        assert await events.next_comment()
    async with small_log_wire.post_stream(small_log_wire.tool_request("wait_at", gate="alive")) as events:
        assert await events.next_comment()
        assert await events.next_comment()
        await small_log_wire.call_tool("open_gate", gate="alive")
        assert answer_text((await events.read_to_end())[-1].message) == "through alive"
    async with small_log_wire.get_stream(path="/receive", Accept="text/event-stream") as events:
        assert await events.next_comment()


async def test_an_evicted_answer_reaches_a_connected_client(small_log_wire: Wire) -> None:
    """Events of other streams evict the answer from the log before a slow client has read it."""
    call = small_log_wire.tool_request("logs_then_wait", gate="slow", before=1, after=0, size=16_000_000, id="slow")
    async with small_log_wire.post_stream(call) as slow:
        # The log message fills the buffers of the sockets, so the server cannot send the answer yet.
        await small_log_wire.call_tool("wait_for_note", note="slow: started")
        await small_log_wire.call_tool("open_gate", gate="slow")
        await small_log_wire.call_tool("logs", number=20)
        frames = await slow.read_to_end()
    assert [len(data) for data in log_data(frames)] == [16_000_002]
    assert frames[-1].message["id"] == "slow"
    assert answer_text(frames[-1].message) == "logged"
