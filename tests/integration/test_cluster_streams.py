"""Several processes behind a round robin: streams that resume anywhere, and the one standalone stream of a session."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import anyio
import mcp_types as types
import pytest

from tests.integration.cluster import Cluster, Front, client_through, cluster_on, process_of, read
from tests.integration.conftest import (
    LATEST,
    UNPRIMED,
    Frame,
    Server,
    Wire,
    error_code,
    log_data,
    text_of,
    until,
    wire_to,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

CHANGES = ["tools/list_changed", "prompts/list_changed", "resources/list_changed", "resources/updated"]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with cluster_on(request.param) as cluster:
        yield cluster


@pytest.fixture
async def wire(front: Front) -> AsyncGenerator[Wire]:
    async with wire_to(front) as wire:
        yield await wire.open()


def assert_in_order(frames: list[Frame]) -> None:
    """Check that the events' ids only ever increase: none came twice, none out of turn."""
    ids = [frame.id or "" for frame in frames]
    assert ids == sorted(set(ids))


def methods(frames: list[Frame]) -> list[str]:
    return [frame.message["method"].removeprefix("notifications/") for frame in frames if frame.message]


def other_than(front: Front, *servers: Server) -> Server:
    return next(server for server in front.servers if server not in servers)


# ---------------------------------------------------------------- resuming an answer


@pytest.mark.parametrize("version", [LATEST, UNPRIMED])
async def test_a_running_calls_stream_resumes_at_another_process(
    cluster: Cluster, front: Front, wire: Wire, version: str
) -> None:
    mine = await wire.fork().open(version)
    gate = f"resume-{version}"
    call = mine.call("logs_then_wait", gate=gate, before=10, after=10, id="c")
    async with mine.stream(call) as events:
        frames = await read(events, 5)
    there = other_than(front, await front.server_of(call))
    async with mine.at(there).listen(frames[-1].id) as events:
        assert events.response.status_code == 200
        frames += await read(events, 10 - len(log_data(frames)))
        await cluster.open_gate(wire, gate)
        frames += await events.rest()
    assert log_data(frames) == [f"{index}:" for index in range(20)]
    assert (frames[-1].message["id"], text_of(frames[-1].message)) == ("c", "logged")
    assert_in_order(frames)


async def test_a_running_calls_stream_breaks_and_resumes_at_one_process_after_another(
    cluster: Cluster, front: Front, wire: Wire
) -> None:
    """Through the proxy, one event at a time, while the call goes on."""
    async with wire.stream(wire.call("logs_then_wait", gate="wander", before=6, after=6)) as events:
        frames = await read(events, 1)
    for index in range(12):
        if index == 6:
            await cluster.open_gate(wire, "wander")
        async with wire.listen(frames[-1].id) as events:
            frames += await read(events, 1)
    async with wire.listen(frames[-1].id) as events:
        frames += await events.rest()
    assert log_data(frames) == [f"{index}:" for index in range(12)]
    assert text_of(frames[-1].message) == "logged"
    assert_in_order(frames)


async def test_a_silent_calls_stream_resumes_at_another_process(cluster: Cluster, front: Front, wire: Wire) -> None:
    """The priming event is enough to come back with."""
    call = wire.call("wait_at", gate="silent", id=1)
    async with wire.stream(call) as events:
        (primed,) = await read(events, 1)
        assert primed.is_priming
    async with wire.at(other_than(front, await front.server_of(call))).listen(primed.id) as events:
        await cluster.open_gate(wire, "silent")
        (answer,) = await events.rest()
    assert text_of(answer.message) == "through silent"


async def test_a_stream_that_has_ended_resumes_after_every_event_at_every_process(front: Front, wire: Wire) -> None:
    async with wire.stream(wire.call("logs", number=6)) as events:
        frames = await events.rest()
    for server in front.servers:
        for index, frame in enumerate(frames):
            async with wire.at(server).listen(frame.id) as events:
                assert [later.id for later in await events.rest()] == [later.id for later in frames[index + 1 :]]


async def test_a_question_is_seen_again_and_answered_at_other_processes(front: Front, wire: Wire) -> None:
    mine = await wire.fork().open(capabilities={"elicitation": {}})
    call = mine.call("elicit")
    async with mine.stream(call) as events:
        (primed,) = await read(events, 1)
    runs_at = await front.server_of(call)
    second = other_than(front, runs_at)
    third = other_than(front, runs_at, second)
    async with mine.at(second).listen(primed.id) as events:
        question = await events.message()
        answer = {"action": "accept", "content": {"name": "Ada"}}
        await mine.at(third).post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
        assert text_of(await events.message()) == "Ada"
        assert await events.next() is None


async def test_close_sse_stream_and_the_client_comes_back_to_another_process(cluster: Cluster, wire: Wire) -> None:
    async with wire.stream(wire.call("close_stream", gate="away")) as events:
        frames = await events.rest()
    assert "result" not in (frames[-1].message or {})
    async with wire.listen(frames[-1].id) as events:
        await cluster.open_gate(wire, "away")
        frames += await events.rest()
    assert log_data(frames) == ["before", "while away", "after"]
    assert text_of(frames[-1].message) == "closed and came back"
    assert_in_order(frames)


async def test_the_sdks_client_comes_back_to_another_process(cluster: Cluster, front: Front, wire: Wire) -> None:
    said: list[str] = []
    results: list[Any] = []
    gate = f"sdk-{uuid4()}"

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        said.append(params.data)

    async with client_through(front, logging_callback=on_log) as client, anyio.create_task_group() as tasks:

        async def call() -> None:
            results.append(await client.call_tool("close_stream", {"gate": wire.gate(gate)}))

        tasks.start_soon(call)
        await cluster.open_gate(wire, gate)
    assert results[0].content[0].text == "closed and came back"
    assert said == ["before", "while away", "after"]


async def test_the_answers_to_a_batch_are_resumed_at_another_process(
    cluster: Cluster, front: Front, wire: Wire
) -> None:
    mine = await wire.fork().open("2025-03-26")
    batch = [
        mine.call("logs", number=2, id="talks"),
        mine.call("wait_at", gate="batch", id="waits"),
        mine.call("echo", text="x", id="quick"),
    ]
    async with mine.stream(batch) as events:
        frames = await read(events, 1)
    async with mine.at(other_than(front, await front.server_of(batch))).listen(frames[-1].id) as events:
        await cluster.open_gate(wire, "batch")
        frames += await events.rest()
    assert {frame.message["id"] for frame in frames if "id" in frame.message} == {"talks", "waits", "quick"}
    assert frames[-1].message["id"] == "waits"
    assert log_data(frames) == ["0:", "1:"]
    assert_in_order(frames)


async def test_ids_of_nobody_and_of_others_replay_nothing_anywhere(front: Front, wire: Wire) -> None:
    other = await wire.fork().open()
    async with other.stream(other.call("logs", number=3)) as events:
        theirs = await events.rest()
    async with wire.stream(wire.call("logs", number=3)) as events:
        ours = await events.rest()
    _, session, stream = (ours[0].id or "").split(".", 2)
    process = process_of(ours[0])
    unknown = [
        "nonsense",
        f"000000000001.{session}.post-{process}-0123456789",
        f"000000000001.{session}.post-{process}-0123456789-WzFd",
        f"000000000001.{session}.post-s0123456789-0123456789-WzFd",
        f"000000000000.{session}.post-s0123456789-0123456789-WzFd",
        f"000000999999.{session}.{stream}",
        f"000000000001.{session}.post-",
        f"000000000001.{session}.send-{process}-0123456789-!!",
        "000000000001.abcdefgh.get",
        theirs[0].id or "",
    ]
    for server in front.servers:
        for event_id in unknown:
            async with wire.at(server).listen(event_id) as events:
                assert events.response.status_code == 200, event_id
                assert await events.rest() == [], event_id


@pytest.mark.parametrize("by", ["header", "query"])
async def test_what_is_received_is_resumed_at_another_process(front: Front, wire: Wire, by: str) -> None:
    for index in range(3):
        await wire.post(wire.call("echo", text="x", id=index), "/send")
    frames: list[Frame] = []
    after: str | None = None
    for _ in range(3):
        path = f"/receive?after={after}" if after and by == "query" else "/receive"
        last = after if by == "header" else None
        async with wire.listen(last, path, Accept="text/event-stream") as events:
            frames += await read(events, 1)
        after = frames[-1].id
    assert sorted(frame.message["id"] for frame in frames) == [0, 1, 2]
    assert_in_order(frames)


# ---------------------------------------------------------------- the standalone stream


async def test_a_second_get_at_another_process_is_a_conflict(front: Front, wire: Wire) -> None:
    async with wire.listen() as holder:
        for _ in front.servers:
            async with wire.listen() as refused:
                await refused.response.aread()
                assert (refused.response.status_code, error_code(refused.response)) == (409, "SESSION_CONFLICT")
        await wire.tool("change")
        assert methods(await read(holder, 4)) == CHANGES, "its holder has noticed nothing"


async def test_of_many_gets_at_once_one_gets_the_stream(front: Front, wire: Wire) -> None:
    statuses: list[int] = []
    done = anyio.Event()

    async def listen(server: Server) -> None:
        async with wire.at(server).listen() as events:
            statuses.append(events.response.status_code)
            if len(statuses) == 2 * len(front.servers):
                done.set()
            await done.wait()

    async with anyio.create_task_group() as tasks:
        for server in [*front.servers, *front.servers]:
            tasks.start_soon(listen, server)
    assert sorted(statuses) == [200, *[409] * (2 * len(front.servers) - 1)]


async def test_a_stream_that_was_closed_is_free_everywhere(front: Front, wire: Wire) -> None:
    for server in front.servers:
        # Until the process has noticed that its client hung up.
        async def is_free(server: Server = server) -> bool:
            async with wire.at(server).listen() as events:
                return events.response.status_code == 200

        assert await until(is_free)


async def test_the_standalone_stream_resumes_anywhere_without_loss(front: Front, wire: Wire) -> None:
    frames: list[Frame] = []
    for _ in front.servers:
        async with wire.listen(frames[-1].id if frames else None) as events:
            assert events.response.status_code == 200
            await wire.tool("change")
            frames += await read(events, 3)
    async with wire.listen(frames[-1].id) as events:
        frames += await read(events, 4 * len(front.servers) - len(frames))
    assert methods(frames) == CHANGES * len(front.servers)
    assert_in_order(frames)


async def test_what_was_said_before_the_get_comes_from_any_process(front: Front, wire: Wire) -> None:
    for server in front.servers:
        await wire.at(server).tool("change")
    async with wire.listen() as events:
        assert methods(await read(events, 12)) == CHANGES * 3


async def test_an_event_id_takes_the_stream_over_from_another_process(wire: Wire) -> None:
    """The holder before ends at once, and nothing is lost or comes twice."""
    async with wire.listen() as holder:
        await wire.tool("change")
        frames = await read(holder, 3)
        async with wire.listen(frames[-1].id) as successor:
            assert successor.response.status_code == 200
            # It had got one more event than its client had read.
            assert methods(await holder.rest()) == CHANGES[3:]
            await wire.tool("change")
            frames += await read(successor, 5)
    assert methods(frames) == CHANGES * 2
    assert_in_order(frames)


async def test_a_tool_closes_the_standalone_stream_of_another_process(front: Front, wire: Wire) -> None:
    first, second, _ = front.servers
    async with wire.at(first).listen() as events:
        await wire.tool("change")
        frames = await read(events, 4)
        await wire.at(second).tool("close_standalone")
        assert await events.next() is None
    async with wire.at(second).listen(frames[-1].id) as events:
        await wire.tool("change")
        assert methods(await read(events, 4)) == CHANGES


async def test_who_took_the_stream_over_holds_it(front: Front, wire: Wire) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(wire.listen())
        await wire.tool("change")
        frames = await read(first, 4)
        second = await stack.enter_async_context(wire.listen(frames[-1].id))
        assert await first.next() is None
        for server in front.servers:
            async with wire.at(server).listen() as refused:
                assert refused.response.status_code == 409
        await wire.tool("change")
        assert methods(await read(second, 4)) == CHANGES


async def test_an_event_id_takes_the_stream_over_from_one_process_after_another(front: Front, wire: Wire) -> None:
    """From one process to the next and back; the holder before ends at once, and nothing is lost or comes twice."""
    frames: list[Frame] = []
    async with AsyncExitStack() as stack:
        holder = await stack.enter_async_context(wire.listen())
        for _ in range(4):
            await wire.tool("change")
            frames += await read(holder, 3)
            successor = await stack.enter_async_context(wire.listen(frames[-1].id))
            assert successor.response.status_code == 200
            # It had got one more event than its client had read.
            assert methods(await holder.rest()) == CHANGES[3:]
            holder = successor
            frames += await read(holder, 1)
    assert methods(frames) == CHANGES * 4
    assert_in_order(frames)
