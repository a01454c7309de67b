"""Several processes behind a load balancer: streams resume at any process, and a session has one standalone stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import anyio
import mcp_types as types
import pytest

from tests.integration.cluster import Cluster, process_name, run_cluster
from tests.integration.load_balancer import LoadBalancer, connect_client
from tests.integration.server_process import Server
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

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

CHANGES = ["tools/list_changed", "prompts/list_changed", "resources/list_changed", "resources/updated"]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with run_cluster(request.param) as cluster:
        yield cluster


@pytest.fixture
async def wire(balancer: LoadBalancer) -> AsyncGenerator[Wire]:
    async with open_wire(balancer) as wire:
        yield await wire.open_session()


def assert_in_order(frames: list[Frame]) -> None:
    """Check that the event ids increase strictly."""
    ids = [frame.id or "" for frame in frames]
    assert ids == sorted(set(ids))


def other_than(balancer: LoadBalancer, *servers: Server) -> Server:
    return next(server for server in balancer.servers if server not in servers)


# ---------------------------------------------------------------- resuming an answer


@pytest.mark.parametrize("version", [LATEST, UNPRIMED])
async def test_the_stream_of_a_running_call_resumes_at_another_process(
    cluster: Cluster, balancer: LoadBalancer, wire: Wire, version: str
) -> None:
    mine = await wire.new_client().open_session(version)
    gate = f"resume-{version}"
    call = mine.tool_request("logs_then_wait", gate=gate, before=10, after=10, id="c")
    async with mine.post_stream(call) as events:
        frames = await events.read_frames(5)
    there = other_than(balancer, await balancer.server_that_got(call))
    async with mine.at(there).get_stream(frames[-1].id) as events:
        assert events.response.status_code == 200
        frames += await events.read_frames(10 - len(log_data(frames)))
        await cluster.open_gate(wire, gate)
        frames += await events.read_to_end()
    assert log_data(frames) == [f"{index}:" for index in range(20)]
    assert (frames[-1].message["id"], answer_text(frames[-1].message)) == ("c", "logged")
    assert_in_order(frames)


async def test_the_stream_of_a_running_call_resumes_at_one_process_after_another(
    cluster: Cluster, balancer: LoadBalancer, wire: Wire
) -> None:
    """The client reads one event on each connection, while the call runs."""
    async with wire.post_stream(wire.tool_request("logs_then_wait", gate="wander", before=6, after=6)) as events:
        frames = await events.read_frames(1)
    for index in range(12):
        if index == 6:
            await cluster.open_gate(wire, "wander")
        async with wire.get_stream(frames[-1].id) as events:
            frames += await events.read_frames(1)
    async with wire.get_stream(frames[-1].id) as events:
        frames += await events.read_to_end()
    assert log_data(frames) == [f"{index}:" for index in range(12)]
    assert answer_text(frames[-1].message) == "logged"
    assert_in_order(frames)


async def test_the_stream_of_a_silent_call_resumes_at_another_process(
    cluster: Cluster, balancer: LoadBalancer, wire: Wire
) -> None:
    """The id of the priming event is enough to resume."""
    call = wire.tool_request("wait_at", gate="silent", id=1)
    async with wire.post_stream(call) as events:
        (priming,) = await events.read_frames(1)
        assert priming.is_priming
    async with wire.at(other_than(balancer, await balancer.server_that_got(call))).get_stream(priming.id) as events:
        await cluster.open_gate(wire, "silent")
        (answer,) = await events.read_to_end()
    assert answer_text(answer.message) == "through silent"


async def test_an_ended_stream_resumes_after_every_event_at_every_process(balancer: LoadBalancer, wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("logs", number=6)) as events:
        frames = await events.read_to_end()
    for server in balancer.servers:
        for index, frame in enumerate(frames):
            async with wire.at(server).get_stream(frame.id) as events:
                assert [later.id for later in await events.read_to_end()] == [later.id for later in frames[index + 1 :]]


async def test_a_question_is_read_and_answered_at_other_processes(balancer: LoadBalancer, wire: Wire) -> None:
    mine = await wire.new_client().open_session(capabilities={"elicitation": {}})
    call = mine.tool_request("elicit")
    async with mine.post_stream(call) as events:
        (priming,) = await events.read_frames(1)
    first = await balancer.server_that_got(call)
    second = other_than(balancer, first)
    third = other_than(balancer, first, second)
    async with mine.at(second).get_stream(priming.id) as events:
        question = await events.next_message()
        answer = {"action": "accept", "content": {"name": "Ada"}}
        await mine.at(third).post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
        assert answer_text(await events.next_message()) == "Ada"
        assert await events.next_frame() is None


async def test_a_client_resumes_at_another_process_after_close_sse_stream(cluster: Cluster, wire: Wire) -> None:
    async with wire.post_stream(wire.tool_request("close_stream", gate="away")) as events:
        frames = await events.read_to_end()
    assert "result" not in (frames[-1].message or {})
    async with wire.get_stream(frames[-1].id) as events:
        await cluster.open_gate(wire, "away")
        frames += await events.read_to_end()
    assert log_data(frames) == ["before", "while away", "after"]
    assert answer_text(frames[-1].message) == "closed and resumed"
    assert_in_order(frames)


async def test_the_sdk_client_resumes_at_another_process_after_close_sse_stream(
    cluster: Cluster, balancer: LoadBalancer, wire: Wire
) -> None:
    logged: list[str] = []
    results: list[Any] = []
    gate = f"sdk-{uuid4()}"

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(params.data)

    async with connect_client(balancer, logging_callback=on_log) as client, anyio.create_task_group() as tasks:

        async def call() -> None:
            results.append(await client.call_tool("close_stream", {"gate": wire.gate_name(gate)}))

        tasks.start_soon(call)
        await cluster.open_gate(wire, gate)
    assert results[0].content[0].text == "closed and resumed"
    assert logged == ["before", "while away", "after"]


async def test_the_stream_of_a_batch_resumes_at_another_process(
    cluster: Cluster, balancer: LoadBalancer, wire: Wire
) -> None:
    mine = await wire.new_client().open_session("2025-03-26")
    batch = [
        mine.tool_request("logs", number=2, id="talks"),
        mine.tool_request("wait_at", gate="batch", id="waits"),
        mine.tool_request("echo", text="x", id="quick"),
    ]
    async with mine.post_stream(batch) as events:
        frames = await events.read_frames(1)
    async with mine.at(other_than(balancer, await balancer.server_that_got(batch))).get_stream(frames[-1].id) as events:
        await cluster.open_gate(wire, "batch")
        frames += await events.read_to_end()
    assert {frame.message["id"] for frame in frames if "id" in frame.message} == {"talks", "waits", "quick"}
    assert frames[-1].message["id"] == "waits"
    assert log_data(frames) == ["0:", "1:"]
    assert_in_order(frames)


async def test_an_event_id_that_the_session_never_had_counts_as_none_at_any_process(
    balancer: LoadBalancer, wire: Wire
) -> None:
    other = await wire.new_client().open_session()
    async with other.post_stream(other.tool_request("logs", number=3)) as events:
        other_frames = await events.read_to_end()
    async with wire.post_stream(wire.tool_request("logs", number=3)) as events:
        frames = await events.read_to_end()
    _, session, stream = (frames[0].id or "").split(".", 2)
    process = process_name(frames[0])
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
        other_frames[0].id or "",
    ]
    await wire.call_tool("change")
    async with wire.get_stream() as events:
        changes = await events.read_frames(4)
    for server in balancer.servers:
        for event_id in unknown:
            async with wire.at(server).get_stream_when_free(event_id) as events:
                assert await events.read_frames(4) == changes, event_id


@pytest.mark.parametrize("by", ["header", "query"])
async def test_receive_resumes_at_another_process(balancer: LoadBalancer, wire: Wire, by: str) -> None:
    for index in range(3):
        await wire.post(wire.tool_request("echo", text="x", id=index), "/send")
    frames: list[Frame] = []
    after: str | None = None
    for _ in range(3):
        path = f"/receive?after={after}" if after and by == "query" else "/receive"
        last = after if by == "header" else None
        async with wire.get_stream(last, path, Accept="text/event-stream") as events:
            frames += await events.read_frames(1)
        after = frames[-1].id
    assert sorted(frame.message["id"] for frame in frames) == [0, 1, 2]
    assert_in_order(frames)


# ---------------------------------------------------------------- the standalone stream


async def test_a_second_get_at_another_process_is_a_conflict(balancer: LoadBalancer, wire: Wire) -> None:
    async with wire.get_stream() as standalone:
        for _ in balancer.servers:
            async with wire.get_stream() as refused:
                await refused.response.aread()
                assert (refused.response.status_code, error_code(refused.response)) == (409, "SESSION_CONFLICT")
        await wire.call_tool("change")
        assert notification_names(await standalone.read_frames(4)) == CHANGES, "the open stream must continue"


async def test_one_of_many_concurrent_gets_succeeds(balancer: LoadBalancer, wire: Wire) -> None:
    statuses: list[int] = []
    done = anyio.Event()

    async def listen(server: Server) -> None:
        async with wire.at(server).get_stream() as events:
            statuses.append(events.response.status_code)
            if len(statuses) == 2 * len(balancer.servers):
                done.set()
            await done.wait()

    async with anyio.create_task_group() as tasks:
        for server in [*balancer.servers, *balancer.servers]:
            tasks.start_soon(listen, server)
    assert sorted(statuses) == [200, *[409] * (2 * len(balancer.servers) - 1)]


async def test_a_closed_standalone_stream_can_be_opened_at_every_process(balancer: LoadBalancer, wire: Wire) -> None:
    for server in balancer.servers:
        # Each process needs some time to notice that its client has closed the connection.
        async def is_free(server: Server = server) -> bool:
            async with wire.at(server).get_stream() as events:
                return events.response.status_code == 200

        assert await wait_until(is_free, f"{server.url} accepts a standalone stream")


async def test_the_standalone_stream_resumes_at_any_process_without_loss(balancer: LoadBalancer, wire: Wire) -> None:
    frames: list[Frame] = []
    for _ in balancer.servers:
        async with wire.get_stream(frames[-1].id if frames else None) as events:
            assert events.response.status_code == 200
            await wire.call_tool("change")
            frames += await events.read_frames(3)
    async with wire.get_stream(frames[-1].id) as events:
        frames += await events.read_frames(4 * len(balancer.servers) - len(frames))
    assert notification_names(frames) == CHANGES * len(balancer.servers)
    assert_in_order(frames)


async def test_notifications_before_the_get_come_from_any_process(balancer: LoadBalancer, wire: Wire) -> None:
    for server in balancer.servers:
        await wire.at(server).call_tool("change")
    async with wire.get_stream() as events:
        assert notification_names(await events.read_frames(12)) == CHANGES * 3


async def test_an_event_id_takes_the_stream_over_from_another_process(wire: Wire) -> None:
    """The former stream ends at once. No event is lost or comes twice."""
    async with wire.get_stream() as former:
        await wire.call_tool("change")
        frames = await former.read_frames(3)
        async with wire.get_stream(frames[-1].id) as current:
            assert current.response.status_code == 200
            # The former stream had sent one more event than its client had read.
            assert notification_names(await former.read_to_end()) == CHANGES[3:]
            await wire.call_tool("change")
            frames += await current.read_frames(5)
    assert notification_names(frames) == CHANGES * 2
    assert_in_order(frames)


async def test_a_tool_closes_the_standalone_stream_at_another_process(balancer: LoadBalancer, wire: Wire) -> None:
    first, second, _ = balancer.servers
    async with wire.at(first).get_stream() as events:
        await wire.call_tool("change")
        frames = await events.read_frames(4)
        await wire.at(second).call_tool("close_standalone")
        assert await events.next_frame() is None
    async with wire.at(second).get_stream(frames[-1].id) as events:
        await wire.call_tool("change")
        assert notification_names(await events.read_frames(4)) == CHANGES


async def test_a_stream_that_was_taken_over_is_held_by_its_new_owner(balancer: LoadBalancer, wire: Wire) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(wire.get_stream())
        await wire.call_tool("change")
        frames = await first.read_frames(4)
        second = await stack.enter_async_context(wire.get_stream(frames[-1].id))
        assert await first.next_frame() is None
        for server in balancer.servers:
            async with wire.at(server).get_stream() as refused:
                assert refused.response.status_code == 409
        await wire.call_tool("change")
        assert notification_names(await second.read_frames(4)) == CHANGES


async def test_an_event_id_takes_the_stream_over_from_one_process_after_another(
    balancer: LoadBalancer, wire: Wire
) -> None:
    """The former stream always ends at once. No event is lost or comes twice."""
    frames: list[Frame] = []
    async with AsyncExitStack() as stack:
        current = await stack.enter_async_context(wire.get_stream())
        for _ in range(4):
            await wire.call_tool("change")
            frames += await current.read_frames(3)
            former, current = current, await stack.enter_async_context(wire.get_stream(frames[-1].id))
            assert current.response.status_code == 200
            # The former stream had sent one more event than its client had read.
            assert notification_names(await former.read_to_end()) == CHANGES[3:]
            frames += await current.read_frames(1)
    assert notification_names(frames) == CHANGES * 4
    assert_in_order(frames)
