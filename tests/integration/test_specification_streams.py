"""Rules of the transport chapters of MCP for streams, in each revision.

docs/specification.md lists the sentences of the specification with the tests that show them, here and in other files.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from mcp_tornado.sessions import EventId
from tests.integration.server_process import Server, StartServer
from tests.integration.specification import (
    CHANGES,
    RETRY_MILLISECONDS,
    UNPRIMED_REVISIONS,
    in_all_revisions,
    in_handshake_revisions,
    tool_request_in,
    use_revision,
)
from tests.integration.wire import (
    LATEST,
    EventStream,
    Frame,
    Wire,
    answer_text,
    log_data,
    notification_names,
    open_wire,
)

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


@in_all_revisions
async def test_a_stream_has_only_the_messages_of_its_request(wire: Wire, version: str) -> None:
    """Two calls run at the same time, and a third call sends notifications on the standalone stream."""
    await use_revision(wire, version)
    gates = ("one", "other")
    wanted = {"io.modelcontextprotocol/logLevel": "info"}
    async with AsyncExitStack() as stack:
        running: dict[str, tuple[Any, EventStream]] = {}
        for gate in gates:
            first = gates.index(gate) * 10
            message, named = tool_request_in(
                version, wire, "logs_then_wait", meta=wanted, gate=gate, before=1, after=first + 2
            )
            running[gate] = (message, await stack.enter_async_context(wire.post_stream(message, **named)))
        for name, given in (("change", {}), ("open_gate", {"gate": "one"}), ("open_gate", {"gate": "other"})):
            message, named = tool_request_in(version, wire, name, **given)
            assert (await wire.post(message, **named)).headers["Content-Type"] == "application/json"
        for gate, (message, events) in running.items():
            frames = [frame for frame in await events.read_to_end() if frame.message is not None]
            number = gates.index(gate) * 10 + 3
            assert log_data(frames) == [f"{index}:" for index in range(number)]
            assert notification_names(frames) == ["message"] * number
            assert [frame.message["id"] for frame in frames if "id" in frame.message] == [message["id"]]


@pytest.mark.parametrize("version", UNPRIMED_REVISIONS)
async def test_a_stream_is_not_closed_early_in_revisions_without_polling(wire: Wire, version: str) -> None:
    """`close_sse_stream` has no effect, because clients of these revisions do not reconnect."""
    await wire.open_session(version)
    async with wire.post_stream(wire.tool_request("close_stream", gate="kept")) as events:
        await wire.call_tool("open_gate", gate="kept")
        frames = await events.read_to_end()
    assert log_data(frames) == ["before", "while away", "after"]
    assert answer_text(frames[-1].message) == "closed and resumed"


async def test_a_closed_connection_announces_the_retry_time(wire: Wire) -> None:
    await wire.open_session()
    async with wire.post_stream(wire.tool_request("close_stream", gate="polled")) as events:
        (priming, *_) = await events.read_to_end()
    assert priming.retry == RETRY_MILLISECONDS
    async with wire.get_stream(priming.id) as events:
        await wire.call_tool("open_gate", gate="polled")
        assert answer_text((await events.read_to_end())[-1].message) == "closed and resumed"
    async with wire.get_stream() as events:
        await wire.call_tool("close_standalone")
        assert await events.read_to_end() == [Frame(None, None, RETRY_MILLISECONDS)], "the stream must have no event"
    async with wire.get_stream() as events:
        await wire.call_tool("change")
        assert (await events.next_frame() or priming).retry == RETRY_MILLISECONDS
        await wire.call_tool("close_standalone")
        assert [frame.retry for frame in await events.read_to_end()] == [None] * 3, (
            "retry must come once on a connection"
        )


@in_handshake_revisions
async def test_a_disconnect_is_not_a_cancellation(wire: Wire, version: str) -> None:
    await wire.open_session(version)
    gate = f"disconnected {version}"
    async with wire.post_stream(wire.tool_request("logs_then_wait", gate=gate, before=1, after=1)) as events:
        last = (await events.read_frames(2 if version == LATEST else 1))[-1]
    await wire.call_tool("open_gate", gate=gate)
    async with wire.get_stream(last.id) as events:
        assert answer_text((await events.read_to_end())[-1].message) == "logged"
    silent = f"silent {version}"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wire.post, wire.tool_request("wait_at", gate=silent))
        await wire.call_tool("wait_for_note", note=f"{silent}: started")
        tasks.cancel_scope.cancel()
    await wire.call_tool("open_gate", gate=silent)
    assert await wire.call_tool("wait_for_note", note=f"{silent}: finished")
    assert await wire.call_tool("has_note", note=f"{silent}: cancelled") == "false"


# ---------------------------------------------------------------- several streams


@in_handshake_revisions
async def test_every_message_is_sent_on_one_stream(wire: Wire, version: str) -> None:
    """Three streams are read at once. Each has its own messages, and no event id comes twice in the session."""
    await wire.open_session(version)
    async with (
        wire.get_stream() as standalone,
        wire.post_stream(wire.tool_request("logs_then_wait", gate="a", before=2, after=2, id="a")) as one,
        wire.post_stream(wire.tool_request("progress", steps=3, meta={"progressToken": "p"}, id="b")) as other,
    ):
        await wire.call_tool("change")
        await wire.call_tool("open_gate", gate="a")
        one_frames, other_frames = await one.read_to_end(), await other.read_to_end()
        standalone_frames = await standalone.read_frames(4)
        await wire.call_tool("change")
        standalone_frames += await standalone.read_frames(4)
    assert notification_names(standalone_frames) == CHANGES * 2, "the stream must have no message of a call"
    assert notification_names(one_frames) == ["message"] * 4
    assert notification_names(other_frames) == ["progress"] * 3
    assert [frames[-1].message["id"] for frames in (one_frames, other_frames)] == ["a", "b"]
    ids = [frame.id for frame in (*standalone_frames, *one_frames, *other_frames)]
    assert None not in ids
    assert len(set(ids)) == len(ids)


async def test_an_event_id_names_its_stream(wire: Wire) -> None:
    await wire.open_session()
    async with wire.get_stream() as standalone, wire.post_stream(wire.tool_request("logs", number=2)) as one:
        await wire.call_tool("change")
        one_frames, standalone_frames = await one.read_to_end(), await standalone.read_frames(4)
    async with wire.post_stream(wire.tool_request("logs", number=2)) as other:
        other_frames = await other.read_to_end()
    streams = [
        {parsed.stream for frame in frames if (parsed := EventId.parse(frame.id or "")) is not None}
        for frames in (one_frames, other_frames, standalone_frames)
    ]
    assert [len(names) for names in streams] == [1, 1, 1]
    assert len(set.union(*streams)) == 3


@in_handshake_revisions
async def test_a_resumed_stream_shows_only_its_own_events(wire: Wire, version: str) -> None:
    await wire.open_session(version)
    async with (
        wire.post_stream(wire.tool_request("logs_then_wait", gate="broken", before=1, after=2, id="broken")) as broken,
        wire.get_stream() as standalone,
    ):
        await wire.call_tool("change")
        standalone_frames = await standalone.read_frames(1)
        broken_frames = [
            frame for frame in await broken.read_frames(2 if version == LATEST else 1) if frame.message is not None
        ]
    async with wire.post_stream(wire.tool_request("logs", number=3)) as events:
        other_frames = await events.read_to_end()
    await wire.call_tool("change")
    await wire.call_tool("open_gate", gate="broken")
    async with wire.get_stream(broken_frames[-1].id) as events:
        broken_frames += await events.read_to_end()
    assert log_data(broken_frames) == ["0:", "1:", "2:"]
    assert notification_names(broken_frames) == ["message"] * 3
    assert broken_frames[-1].message["id"] == "broken"
    async with wire.get_stream(standalone_frames[-1].id) as events:
        assert notification_names(await events.read_frames(7)) == CHANGES[1:] + CHANGES
    async with wire.get_stream(other_frames[0].id) as events:
        assert [frame.id for frame in await events.read_to_end()] == [frame.id for frame in other_frames[1:]]


async def test_a_stream_that_is_resumed_while_it_is_read_comes_twice(wire: Wire) -> None:
    """Both connections show the same stream, with the same event ids."""
    await wire.open_session()
    async with wire.post_stream(wire.tool_request("logs_then_wait", gate="twice", before=1, after=1)) as first:
        (priming,) = await first.read_frames(1)
        async with wire.get_stream(priming.id) as second:
            await wire.call_tool("open_gate", gate="twice")
            frames = await first.read_to_end()
            assert [frame.id for frame in await second.read_to_end()] == [frame.id for frame in frames]
    assert len(frames) == 3
