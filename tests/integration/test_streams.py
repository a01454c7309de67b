"""Streams on the bare wire: when they open, what they hold, how they resume."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack

import anyio
import pytest

from tests.integration.conftest import (
    LATEST,
    UNPRIMED,
    Events,
    Frame,
    Server,
    StartServer,
    Wire,
    error_code,
    log_data,
    text_of,
    until,
    wire_to,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(EVENTS__STREAM_AFTER_SECONDS=0.2, EVENTS__RETRY_MILLISECONDS=321) as server:
        yield server


@pytest.fixture(scope="module")
def forgetful(start_server: StartServer) -> Generator[Server]:
    """A server that keeps few events, and sends keep-alive comments often."""
    with start_server(EVENTS__MAX_PER_SESSION=5, SERVER__KEEPALIVE_SECONDS=0.1, EVENTS__MAX_BYTES=50_000_000) as server:
        yield server


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with wire_to(server) as wire:
        yield await wire.open()


@pytest.fixture
async def forgotten(forgetful: Server) -> AsyncGenerator[Wire]:
    async with wire_to(forgetful) as wire:
        yield await wire.open()


async def read(events: Events, number: int) -> list[Frame]:
    frames = [await events.next() for _ in range(number)]
    return [frame for frame in frames if frame is not None]


# ---------------------------------------------------------------- how a POST is answered


async def test_a_quick_silent_call_is_answered_with_json(wire: Wire) -> None:
    response = await wire.post(wire.call("echo", text="ä", id="q"))
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["id"] == "q"
    assert text_of(response.json()) == "ä"


async def test_a_slow_silent_call_becomes_a_primed_stream(wire: Wire) -> None:
    async with wire.stream(wire.call("wait_at", gate="primed", id=77)) as events:
        assert events.response.status_code == 200
        assert events.response.headers["Content-Type"] == "text/event-stream"
        first = await events.next()
        assert first is not None
        assert first.is_priming
        assert first.retry == 321
        await wire.tool("open_gate", gate="primed")
        answer, *more = await events.rest()
        assert more == []
        assert answer.message["id"] == 77
        assert text_of(answer.message) == "through primed"
        assert answer.id is not None
        assert answer.id > (first.id or "")


async def test_older_revisions_get_no_priming_event(server: Server) -> None:
    async with wire_to(server) as wire:
        await wire.open(UNPRIMED)
        async with wire.stream(wire.call("wait_at", gate="unprimed")) as events:
            assert events.response.headers["Content-Type"] == "text/event-stream"
            await wire.tool("open_gate", gate="unprimed")
            (frame,) = await events.rest()
            assert text_of(frame.message) == "through unprimed"


@pytest.mark.parametrize("version", [LATEST, UNPRIMED])
async def test_a_talking_call_becomes_a_stream_at_once(server: Server, version: str) -> None:
    async with wire_to(server) as wire:
        await wire.open(version)
        async with wire.stream(wire.call("logs", number=3)) as events:
            frames = await events.rest()
        assert [frame.is_priming for frame in frames] == [True, *[False] * 4][version == UNPRIMED :]
        assert log_data(frames) == ["0:", "1:", "2:"]
        assert text_of(frames[-1].message) == "logged"
        ids = [frame.id for frame in frames]
        assert ids == sorted(set(ids), key=str)


async def test_notifications_and_replies_are_accepted(wire: Wire) -> None:
    for message in (
        {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
        {"jsonrpc": "2.0", "id": "nobody asked", "result": {}},
    ):
        response = await wire.post(message)
        assert (response.status_code, response.content) == (202, b"")


async def test_every_progress_comes_only_where_it_was_asked_for(wire: Wire) -> None:
    response = await wire.post(wire.call("progress", steps=3))
    assert response.headers["Content-Type"] == "application/json"
    async with wire.stream(wire.call("progress", steps=3, meta={"progressToken": "tok"})) as events:
        messages = [frame.message for frame in await events.rest() if frame.message]
    assert [message["params"]["progress"] for message in messages[:-1]] == [1, 2, 3]
    assert {message["params"]["progressToken"] for message in messages[:-1]} == {"tok"}


async def test_a_reader_that_is_slower_than_the_call_gets_everything(wire: Wire) -> None:
    """15 MB are more than the sockets and the log of events hold; the client reads once all is written."""
    async with wire.stream(wire.call("logs", number=60, size=250_000)) as events:
        assert (await wire.post(wire.call("echo", text="meanwhile"))).status_code == 200
        await anyio.sleep(0)
        frames = await events.rest()
    assert [data.partition(":")[0] for data in log_data(frames)] == [str(index) for index in range(60)]
    assert text_of(frames[-1].message) == "logged"


# ---------------------------------------------------------------- cancelling


async def test_a_cancelled_call_is_answered(wire: Wire) -> None:
    async with wire.stream(wire.call("wait_at", gate="cancel-wire", id=5)) as events:
        assert (await events.next() or Frame(None, 0, None)).is_priming
        params = {"requestId": 5, "reason": "changed my mind"}
        cancelled = await wire.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        assert cancelled.status_code == 202
        (answer,) = await events.rest()
    assert answer.message["id"] == 5
    assert answer.message["error"]["code"] == -32800
    assert await wire.tool("seen", what="cancel-wire: cancelled")


async def test_a_cancelled_thread_is_answered_too(wire: Wire) -> None:
    """Nothing can interrupt a plain function, but its client need not wait for it."""
    async with wire.stream(wire.call("wait_in_thread", gate="thread", id="t")) as events:
        await wire.tool("thread_started", gate="thread")
        await wire.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "t"}})
        answer = (await events.rest())[-1]
        assert answer.message["error"]["code"] == -32800
    await wire.tool("open_gate", gate="thread")
    assert await wire.tool("echo", text="alive") == "alive"


async def test_one_session_cannot_cancel_a_call_of_another(server: Server, wire: Wire) -> None:
    async with wire.stream(wire.call("wait_at", gate="mine", id=9)) as events:
        other = await wire.fork().open()
        await other.tool("seen", what="mine: started")
        await other.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}})
        await other.tool("open_gate", gate="mine")
        assert text_of((await events.rest())[-1].message) == "through mine"


async def test_one_session_cannot_answer_a_question_of_another(wire: Wire) -> None:
    other = wire
    wire = await wire.fork().open(capabilities={"elicitation": {}})
    async with wire.stream(wire.call("elicit")) as events:
        question = await events.message()
        answer = {"action": "accept", "content": {"name": "thief"}}
        await other.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
        answer = {"action": "accept", "content": {"name": "owner"}}
        await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
        assert text_of(await events.message()) == "owner"


# ---------------------------------------------------------------- resuming


async def test_a_broken_stream_resumes_without_loss(wire: Wire) -> None:
    frames: list[Frame] = []
    async with wire.stream(wire.call("logs_then_wait", gate="resume", before=10, after=10, id=1)) as events:
        frames += await read(events, 5)  # the priming event and four messages
    await wire.tool("open_gate", gate="resume")
    async with wire.listen(frames[-1].id) as events:
        assert events.response.status_code == 200
        frames += await events.rest()
    assert log_data(frames) == [f"{index}:" for index in range(20)]
    assert frames[-1].message["id"] == 1
    assert text_of(frames[-1].message) == "logged"
    ids = [frame.id or "" for frame in frames]
    assert ids == sorted(set(ids))


async def test_a_stream_breaks_and_resumes_at_every_event(wire: Wire) -> None:
    """Whatever was the last event that got through: nothing is lost and nothing comes twice."""
    async with wire.stream(wire.call("logs", number=6)) as events:
        frames = await events.rest()
    for index, frame in enumerate(frames):
        async with wire.listen(frame.id) as events:
            assert [later.id for later in await events.rest()] == [later.id for later in frames[index + 1 :]]


async def test_resuming_goes_on_live(wire: Wire) -> None:
    """The resumed stream stays open while the call runs, and another stream's events do not get into it."""
    async with wire.stream(wire.call("logs_then_wait", gate="live", before=1, after=2)) as events:
        primed, first = await read(events, 2)
    async with wire.listen(first.id) as events:
        await wire.tool("seen", what="live: started")
        await wire.tool("change")
        await wire.tool("logs", number=3)
        await wire.tool("open_gate", gate="live")
        frames = await events.rest()
    assert log_data([first, *frames]) == ["0:", "1:", "2:"]
    assert text_of(frames[-1].message) == "logged"
    assert primed.is_priming


async def test_a_disconnect_does_not_cancel_a_call_of_a_session(wire: Wire) -> None:
    async with wire.stream(wire.call("wait_at", gate="hung-up")) as events:
        primed = await events.next()
        assert primed is not None
    await wire.tool("open_gate", gate="hung-up")
    assert await wire.tool("seen", what="hung-up: finished")
    assert not json.loads(await wire.tool("holds", what="hung-up: cancelled"))
    async with wire.listen(primed.id) as events:
        (answer,) = await events.rest()
        assert text_of(answer.message) == "through hung-up"


async def test_event_ids_of_nobody_or_of_others_replay_nothing(wire: Wire) -> None:
    other = await wire.fork().open()
    async with other.stream(other.call("logs", number=3)) as events:
        theirs = await events.rest()
    await other.tool("change")
    async with other.listen() as events:
        standalone = await events.next()
        assert standalone is not None
    for event_id in (theirs[0].id, standalone.id, "nonsense", "000000000001.abcdefgh.get"):
        async with wire.listen(event_id) as events:
            assert events.response.status_code == 200
            assert await events.rest() == []


async def test_close_sse_stream_on_the_wire(wire: Wire) -> None:
    async with wire.stream(wire.call("close_stream", gate="away")) as events:
        frames = await events.rest()
    assert frames[0].is_priming
    assert "after" not in log_data(frames)
    assert "result" not in (frames[-1].message or {})
    await wire.tool("open_gate", gate="away")
    async with wire.listen(frames[-1].id) as events:
        frames += await events.rest()
    assert log_data(frames) == ["before", "while away", "after"]
    assert text_of(frames[-1].message) == "closed and came back"


# ---------------------------------------------------------------- the standalone stream


def methods(frames: list[Frame]) -> list[str]:
    return [frame.message["method"].removeprefix("notifications/") for frame in frames if frame.message]


CHANGES = ["tools/list_changed", "prompts/list_changed", "resources/list_changed", "resources/updated"]


async def test_what_was_said_before_the_get_is_delivered(wire: Wire) -> None:
    await wire.tool("change")
    async with wire.listen() as events:
        assert methods(await read(events, 4)) == CHANGES
        await wire.tool("change")
        assert methods(await read(events, 4)) == CHANGES


async def test_what_was_said_between_initialize_and_initialized_is_delivered(wire: Wire) -> None:
    fresh = wire.fork()
    response = await fresh.initialize()
    fresh.headers = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"], "MCP-Protocol-Version": LATEST}
    await fresh.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
    await fresh.tool("change")
    async with fresh.listen() as events:
        assert methods(await read(events, 4)) == CHANGES


async def test_the_standalone_stream_resumes_without_loss(wire: Wire) -> None:
    frames: list[Frame] = []
    async with wire.listen() as events:
        await wire.tool("change")
        frames += await read(events, 2)
    await wire.tool("change")
    async with wire.listen(frames[-1].id) as events:
        frames += await read(events, 6)
    assert methods(frames) == CHANGES * 2
    ids = [frame.id or "" for frame in frames]
    assert ids == sorted(set(ids))


async def test_a_second_get_is_a_conflict_while_the_holder_lives(wire: Wire) -> None:
    async with AsyncExitStack() as stack:
        holder = await stack.enter_async_context(wire.listen())
        await wire.tool("change")
        frames = await read(holder, 4)
        async with wire.listen() as refused:
            await refused.response.aread()
            assert refused.response.status_code == 409
            assert error_code(refused.response) == "SESSION_CONFLICT"
        successor = await stack.enter_async_context(wire.listen(frames[1].id))
        assert successor.response.status_code == 200
        assert methods(await read(successor, 2)) == CHANGES[2:]
        assert await holder.next() is None, "the stream that was taken over ends"
        await wire.tool("change")
        assert methods(await read(successor, 4)) == CHANGES


async def test_a_holder_that_hangs_up_makes_room(wire: Wire) -> None:
    async with wire.listen() as events:
        assert events.response.status_code == 200

    async def is_free() -> bool:
        async with wire.listen() as events:
            return events.response.status_code == 200

    assert await until(is_free)


async def test_resuming_an_answer_does_not_touch_the_standalone_stream(wire: Wire) -> None:
    async with wire.listen() as standalone:
        async with wire.stream(wire.call("logs", number=2)) as events:
            frames = await events.rest()
        async with wire.listen(frames[0].id) as events:
            assert len(await events.rest()) == 3
        await wire.tool("change")
        assert methods(await read(standalone, 4)) == CHANGES


async def test_close_standalone_on_the_wire(wire: Wire) -> None:
    async with wire.listen() as events:
        await wire.tool("change")
        frames = await read(events, 4)
        await wire.tool("close_standalone")
        assert await events.next() is None
    await wire.tool("change")
    async with wire.listen(frames[-1].id) as events:
        assert methods(await read(events, 4)) == CHANGES


# ---------------------------------------------------------------- the end of a session


async def test_delete_ends_everything(wire: Wire) -> None:
    other = await wire.fork().open()
    async with (
        wire.listen() as standalone,
        wire.listen(path="/receive", Accept="text/event-stream") as received,
        wire.stream(wire.call("wait_at", gate="deleted", id=3)) as running,
    ):
        assert (await running.next() or Frame(None, 0, None)).is_priming
        response = await wire.delete()
        assert (response.status_code, response.content) == (204, b"")
        assert await standalone.rest() == []
        assert await received.rest() == []
        (answer,) = await running.rest()
        assert answer.message["id"] == 3
        assert "error" in answer.message
    assert await other.tool("seen", what="deleted: cancelled")
    again = await wire.post(wire.call("echo", text="x"))
    assert again.status_code == 404
    assert error_code(again) == "SESSION_NOT_FOUND"
    async with wire.listen() as events:
        assert events.response.status_code == 404
    assert (await wire.delete()).status_code == 404
    assert await other.tool("echo", text="unharmed") == "unharmed"


async def test_delete_answers_a_call_that_is_no_stream_yet(server: Server) -> None:
    async with wire_to(server) as wire, anyio.create_task_group() as tasks:
        await wire.open()
        other = await wire.fork().open()
        answers: list[int] = []

        async def call() -> None:
            response = await wire.post(wire.call("wait_at", gate="quick-delete", id=4))
            answers.append(response.status_code)
            assert "error" in response.text

        tasks.start_soon(call)
        await other.tool("seen", what="quick-delete: started")
        assert (await wire.delete()).status_code == 204
        with anyio.fail_after(30):
            while not answers:
                await anyio.sleep(0.01)


# ---------------------------------------------------------------- silence, and events that are gone


async def test_keep_alive_comments_on_every_stream(forgotten: Wire) -> None:
    async with forgotten.listen() as events:
        assert await events.comment()
        assert await events.comment()
    async with forgotten.stream(forgotten.call("wait_at", gate="alive")) as events:
        assert await events.comment()
        assert await events.comment()
        await forgotten.tool("open_gate", gate="alive")
        assert text_of((await events.rest())[-1].message) == "through alive"
    async with forgotten.listen(path="/receive", Accept="text/event-stream") as events:
        assert await events.comment()


async def test_an_evicted_id_of_the_standalone_stream_goes_on_with_what_is_kept(forgotten: Wire) -> None:
    async with forgotten.listen() as events:
        await forgotten.tool("change", uri="memo://0")
        (first, *_) = await read(events, 4)
    for index in range(1, 4):
        await forgotten.tool("change", uri=f"memo://{index}")
    async with forgotten.listen(first.id) as events:
        frames = await read(events, 5)
        assert methods(frames) == [CHANGES[3], *CHANGES]
        assert frames[-1].message["params"]["uri"] == "memo://3"


async def test_an_evicted_id_of_an_answer_ends_with_an_error(forgotten: Wire) -> None:
    async with forgotten.stream(forgotten.call("logs", number=2)) as events:
        frames = await events.rest()
    for _ in range(3):
        await forgotten.tool("change")
    async with forgotten.listen(frames[0].id) as events:
        (end,) = await events.rest()
    assert end.message["error"]["message"]


async def test_an_evicted_id_of_a_running_call_ends_with_an_error_for_it(forgotten: Wire) -> None:
    async with forgotten.stream(forgotten.call("wait_at", gate="evicted", id="run")) as events:
        primed = await events.next()
        assert primed is not None
    for _ in range(3):
        await forgotten.tool("change")
    async with forgotten.listen(primed.id) as events:
        (end,) = await events.rest()
    assert end.message["id"] == "run"
    assert end.message["error"]["message"]
    await forgotten.tool("open_gate", gate="evicted")


async def test_an_answer_reaches_a_connected_client_whatever_else_the_session_says(forgotten: Wire) -> None:
    """The events of other streams push an answer out of the log before a slow client has read it."""
    call = forgotten.call("logs_then_wait", gate="slow", before=1, after=0, size=16_000_000, id="slow")
    async with forgotten.stream(call) as slow:
        # The message fills the sockets, so the answer is not read from the log.
        await forgotten.tool("seen", what="slow: started")
        await forgotten.tool("open_gate", gate="slow")
        await forgotten.tool("logs", number=20)
        with anyio.fail_after(10):
            frames = await slow.rest()
    assert [len(data) for data in log_data(frames)] == [16_000_002]
    assert frames[-1].message["id"] == "slow"
    assert text_of(frames[-1].message) == "logged"
