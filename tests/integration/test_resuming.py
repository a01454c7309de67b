"""Streams on the wire: resuming, the standalone stream, and events that were evicted."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack

import pytest

from tests.integration.server_process import Server, StartServer
from tests.integration.waiting import wait_until
from tests.integration.wire import (
    LATEST,
    UNPRIMED,
    Frame,
    Wire,
    answer_text,
    error_code,
    log_data,
    notification_names,
    open_wire,
)

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


# ---------------------------------------------------------------- resuming


async def test_a_broken_stream_resumes_without_loss(wire: Wire) -> None:
    frames: list[Frame] = []
    async with wire.post_stream(
        wire.tool_request("logs_then_wait", gate="resume", before=10, after=10, id=1)
    ) as events:
        frames += await events.read_frames(5)  # the priming event and four messages
    await wire.call_tool("open_gate", gate="resume")
    async with wire.get_stream(frames[-1].id) as events:
        assert events.response.status_code == 200
        frames += await events.read_to_end()
    assert log_data(frames) == [f"{index}:" for index in range(20)]
    assert frames[-1].message["id"] == 1
    assert answer_text(frames[-1].message) == "logged"
    ids = [frame.id or "" for frame in frames]
    assert ids == sorted(set(ids))


async def test_a_stream_resumes_after_every_event(wire: Wire) -> None:
    """Whichever event was the last one that arrived, no event is lost and none comes twice."""
    async with wire.post_stream(wire.tool_request("logs", number=6)) as events:
        frames = await events.read_to_end()
    for index, frame in enumerate(frames):
        async with wire.get_stream(frame.id) as events:
            assert [later.id for later in await events.read_to_end()] == [later.id for later in frames[index + 1 :]]


async def test_a_resumed_stream_shows_new_events(wire: Wire) -> None:
    """The resumed stream stays open while the call runs, and shows no event of another stream."""
    async with wire.post_stream(wire.tool_request("logs_then_wait", gate="live", before=1, after=2)) as events:
        priming, first = await events.read_frames(2)
    async with wire.get_stream(first.id) as events:
        await wire.call_tool("wait_for_note", note="live: started")
        await wire.call_tool("change")
        await wire.call_tool("logs", number=3)
        await wire.call_tool("open_gate", gate="live")
        frames = await events.read_to_end()
    assert log_data([first, *frames]) == ["0:", "1:", "2:"]
    assert answer_text(frames[-1].message) == "logged"
    assert priming.is_priming


async def test_a_disconnect_does_not_cancel_a_call_of_a_session(wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("wait_at", gate="hung-up")) as events:
        priming = await events.next_frame()
        assert priming is not None
    await wire.call_tool("open_gate", gate="hung-up")
    assert await wire.call_tool("wait_for_note", note="hung-up: finished")
    assert not json.loads(await wire.call_tool("has_note", note="hung-up: cancelled"))
    async with wire.get_stream(priming.id) as events:
        (answer,) = await events.read_to_end()
        assert answer_text(answer.message) == "through hung-up"


async def test_an_event_id_that_the_session_never_had_counts_as_none(wire: Wire) -> None:
    """The stream opens as without an event id, so that a client with a useless id is not deaf."""
    other = await wire.new_client().open_session()
    async with other.post_stream(other.tool_request("logs", number=3)) as events:
        other_frames = await events.read_to_end()
    await other.call_tool("change")
    async with other.get_stream() as events:
        standalone = await events.next_frame()
        assert standalone is not None
    async with wire.post_stream(wire.tool_request("logs", number=1)) as events:
        own = (await events.read_to_end())[0].id or ""
    _, session, stream = own.split(".")
    await wire.call_tool("change")
    async with wire.get_stream() as events:
        changes = await events.read_frames(4)
    for event_id in (
        "",
        "7",
        "nonsense",
        "000000000001.abcdefgh.get",
        other_frames[0].id,
        standalone.id,
        f"000000000001.{session}.get",  # event 1 is of another stream
        f"000000999999.{session}.get",
        f"000000999999.{session}.{stream}",
        f"{(changes[0].id or '')[:12]}.{session}.{stream}",
        f"000000000001.{session}.post-",
        f"000000000001.{session}.ids-x",
    ):
        async with wire.get_stream_when_free(event_id) as events:
            assert await events.read_frames(len(changes)) == changes, event_id
            assert events.opening is not None
            async with wire.get_stream(event_id) as second:
                await second.response.aread()
                assert error_code(second.response) == "SESSION_CONFLICT"
            await wire.call_tool("change")
            changes += await events.read_frames(4)
            assert notification_names(changes[-4:]) == CHANGES


async def test_a_stream_resumes_after_close_sse_stream(wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("close_stream", gate="away")) as events:
        frames = await events.read_to_end()
    assert frames[0].is_priming
    assert "after" not in log_data(frames)
    assert "result" not in (frames[-1].message or {})
    await wire.call_tool("open_gate", gate="away")
    async with wire.get_stream(frames[-1].id) as events:
        frames += await events.read_to_end()
    assert log_data(frames) == ["before", "while away", "after"]
    assert answer_text(frames[-1].message) == "closed and resumed"


# ---------------------------------------------------------------- the standalone stream


CHANGES = ["tools/list_changed", "prompts/list_changed", "resources/list_changed", "resources/updated"]


async def test_a_get_stream_begins_at_once_with_a_priming_event(wire: Wire) -> None:
    """A proxy may hold the head of the answer back until the first byte, and a client needs an id to resume from."""
    async with wire.post_stream(wire.tool_request("logs", number=1)) as events:
        session = ((await events.read_to_end())[0].id or "").split(".")[1]
    opening_id = f"000000000000.{session}.get"
    async with wire.get_stream() as former:
        assert [await former.next_line() for _ in range(4)] == [f"id: {opening_id}", "retry: 321", "data: ", ""]
        async with wire.get_stream(opening_id) as current:
            assert await current.next_line() == ": keepalive"
            assert await former.next_frame() is None, "the stream that was taken over must end"
            await wire.call_tool("change")
            assert notification_names(await current.read_frames(4)) == CHANGES


@pytest.mark.parametrize("path", ["", "/receive"])
async def test_a_get_stream_of_an_older_session_begins_at_once_with_a_comment(wire: Wire, path: str) -> None:
    older = await wire.new_client().open_session(UNPRIMED)
    async with older.get_stream(path=path, Accept="text/event-stream") as events:
        assert await events.next_line() == ": keepalive"
        await older.call_tool("change")
        frames = await events.read_frames(4)
        assert (notification_names(frames), frames[0].retry) == (CHANGES, 321)
    async with older.get_stream(frames[0].id, path, Accept="text/event-stream") as events:
        assert await events.next_line() == ": keepalive"
        assert [frame.id for frame in await events.read_frames(3)] == [frame.id for frame in frames[1:]]


async def test_notifications_before_the_get_are_delivered(wire: Wire) -> None:
    await wire.call_tool("change")
    async with wire.get_stream() as events:
        assert notification_names(await events.read_frames(4)) == CHANGES
        await wire.call_tool("change")
        assert notification_names(await events.read_frames(4)) == CHANGES


async def test_notifications_before_the_first_get_of_a_new_session_are_delivered(wire: Wire) -> None:
    fresh = wire.new_client()
    response = await fresh.initialize()
    fresh.headers = {"Mcp-Session-Id": response.headers["Mcp-Session-Id"], "MCP-Protocol-Version": LATEST}
    await fresh.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
    await fresh.call_tool("change")
    async with fresh.get_stream() as events:
        assert notification_names(await events.read_frames(4)) == CHANGES


async def test_the_standalone_stream_resumes_without_loss(wire: Wire) -> None:
    frames: list[Frame] = []
    async with wire.get_stream() as events:
        await wire.call_tool("change")
        frames += await events.read_frames(2)
    await wire.call_tool("change")
    async with wire.get_stream(frames[-1].id) as events:
        frames += await events.read_frames(6)
    assert notification_names(frames) == CHANGES * 2
    ids = [frame.id or "" for frame in frames]
    assert ids == sorted(set(ids))


async def test_a_second_get_is_a_conflict_unless_it_has_an_event_id(wire: Wire) -> None:
    async with AsyncExitStack() as stack:
        former = await stack.enter_async_context(wire.get_stream())
        await wire.call_tool("change")
        frames = await former.read_frames(4)
        async with wire.get_stream() as refused:
            await refused.response.aread()
            assert refused.response.status_code == 409
            assert error_code(refused.response) == "SESSION_CONFLICT"
        current = await stack.enter_async_context(wire.get_stream(frames[1].id))
        assert current.response.status_code == 200
        assert notification_names(await current.read_frames(2)) == CHANGES[2:]
        assert await former.next_frame() is None, "the stream that was taken over must end"
        await wire.call_tool("change")
        assert notification_names(await current.read_frames(4)) == CHANGES


async def test_a_standalone_stream_can_be_opened_again_after_a_disconnect(wire: Wire) -> None:
    async with wire.get_stream() as events:
        assert events.response.status_code == 200

    async def is_free() -> bool:
        async with wire.get_stream() as events:
            return events.response.status_code == 200

    assert await wait_until(is_free, "the standalone stream can be opened again")


async def test_resuming_an_answer_does_not_affect_the_standalone_stream(wire: Wire) -> None:
    async with wire.get_stream() as standalone:
        async with wire.post_stream(wire.tool_request("logs", number=2)) as events:
            frames = await events.read_to_end()
        async with wire.get_stream(frames[0].id) as events:
            assert len(await events.read_to_end()) == 3
        await wire.call_tool("change")
        assert notification_names(await standalone.read_frames(4)) == CHANGES


async def test_the_standalone_stream_resumes_after_close_standalone_sse_stream(wire: Wire) -> None:
    async with wire.get_stream() as events:
        await wire.call_tool("change")
        frames = await events.read_frames(4)
        await wire.call_tool("close_standalone")
        assert await events.next_frame() is None
    await wire.call_tool("change")
    async with wire.get_stream(frames[-1].id) as events:
        assert notification_names(await events.read_frames(4)) == CHANGES


# ---------------------------------------------------------------- evicted events


async def test_an_evicted_id_of_the_standalone_stream_continues_with_the_oldest_event(small_log_wire: Wire) -> None:
    async with small_log_wire.get_stream() as events:
        await small_log_wire.call_tool("change", uri="memo://0")
        (first, *_) = await events.read_frames(4)
    for index in range(1, 4):
        await small_log_wire.call_tool("change", uri=f"memo://{index}")
    async with small_log_wire.get_stream(first.id) as events:
        frames = await events.read_frames(5)
        assert notification_names(frames) == [CHANGES[3], *CHANGES]
        assert frames[-1].message["params"]["uri"] == "memo://3"


async def test_an_evicted_id_of_an_answer_ends_with_an_error(small_log_wire: Wire) -> None:
    async with small_log_wire.post_stream(small_log_wire.tool_request("logs", number=2)) as events:
        frames = await events.read_to_end()
    for _ in range(3):
        await small_log_wire.call_tool("change")
    async with small_log_wire.get_stream(frames[0].id) as events:
        (end,) = await events.read_to_end()
    assert end.message["error"]["message"]


async def test_an_evicted_id_of_a_running_call_ends_with_an_error_for_it(small_log_wire: Wire) -> None:
    async with small_log_wire.post_stream(small_log_wire.tool_request("wait_at", gate="evicted", id="run")) as events:
        priming = await events.next_frame()
        assert priming is not None
    for _ in range(3):
        await small_log_wire.call_tool("change")
    async with small_log_wire.get_stream(priming.id) as events:
        (end,) = await events.read_to_end()
    assert end.message["id"] == "run"
    assert end.message["error"]["message"]
    await small_log_wire.call_tool("open_gate", gate="evicted")
