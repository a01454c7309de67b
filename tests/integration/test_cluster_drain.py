"""A process of a cluster drains: its calls finish or get an error, and everything else continues at the others."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import AsyncExitStack

import anyio
import httpx
import pytest

from tests.integration.cluster import Cluster, process_name, run_cluster
from tests.integration.load_balancer import run_balancer
from tests.integration.waiting import wait_until
from tests.integration.wire import Wire, answer_text, error_code, log_data, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with run_cluster(request.param, size=2, SERVER__SHUTDOWN_GRACE_SECONDS=3600) as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "redis"])
def short_grace_cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    """A cluster whose processes wait only 0.2 s for running calls."""
    with run_cluster(request.param, size=2, SERVER__SHUTDOWN_GRACE_SECONDS=0.2) as cluster:
        yield cluster


async def test_running_calls_finish_and_everything_else_continues_at_the_other_process(cluster: Cluster) -> None:
    leaving, staying = cluster.servers
    async with run_balancer(cluster) as balancer, open_wire(balancer) as fresh, AsyncExitStack() as streams:
        wire = await fresh.open_session(capabilities={"elicitation": {}})
        here, there = wire.at(leaving), wire.at(staying)
        standalone = await streams.enter_async_context(here.get_stream())
        received = await streams.enter_async_context(here.get_stream(path="/receive", Accept="text/event-stream"))
        await here.call_tool("change")
        changes = await standalone.read_frames(4)
        received_changes = await received.read_frames(4)
        attached = await streams.enter_async_context(
            here.post_stream(here.tool_request("logs_then_wait", gate="attached", before=2, after=2, id="attached"))
        )
        attached_frames = await attached.read_frames(3)
        asking = await streams.enter_async_context(here.post_stream(here.tool_request("elicit", id="asks")))
        question = await asking.next_message()
        async with here.post_stream(
            here.tool_request("logs_then_wait", gate="away", before=2, after=2, id="away")
        ) as events:
            away_frames = await events.read_frames(2)
        assert (await here.post(here.tool_request("wait_at", gate="sent", id="sent"), "/send")).status_code == 202

        leaving.send_signal()
        await leaving.wait_until_logged("server.draining")
        ready = await wire.http.get(f"{leaving.origin}/readyz")
        assert (ready.status_code, error_code(ready)) == (503, "SERVER_DRAINING")
        for path in ("", "/send"):
            refused = await here.post(wire.tool_request("echo", text="x"), path)
            assert (refused.status_code, error_code(refused)) == (503, "SERVER_DRAINING")
            assert int(refused.headers["Retry-After"]) > 0
        for _ in range(4):
            assert await wire.call_tool("echo", text="x") == "x"

        # The streams without a call end at once, and the client resumes them at the other process.
        assert await standalone.read_to_end() == []
        assert await received.read_to_end() == []
        standalone = await streams.enter_async_context(wire.get_stream(changes[-1].id))
        received = await streams.enter_async_context(
            wire.get_stream(received_changes[-1].id, "/receive", Accept="text/event-stream")
        )
        await wire.call_tool("change")
        assert len(await standalone.read_frames(4)) == len(await received.read_frames(4)) == 4

        # Calls continue: with a connected client, with a question, resumed at the other process, and in the background.
        result = {"action": "accept", "content": {"name": "Ada"}}
        assert (await there.post({"jsonrpc": "2.0", "id": question["id"], "result": result})).status_code == 202
        assert answer_text(await asking.next_message()) == "Ada"
        resumed = await streams.enter_async_context(wire.get_stream(away_frames[-1].id))
        assert resumed.response.status_code == 200
        leaving.send_signal(signal.SIGUSR1)  # opens all gates
        attached_frames += await attached.read_to_end()
        away_frames += await resumed.read_to_end()
        for frames in (attached_frames, away_frames):
            assert log_data(frames) == ["0:", "1:", "2:", "3:"]
            assert answer_text(frames[-1].message) == "logged"
        answer = await received.next_message()
        assert (answer["id"], answer_text(answer)) == ("sent", "through sent")
        assert await leaving.wait_for_exit() == 0

        # The process has left the membership: the other one detects no death. Its events are still in the store.
        async with wire.get_stream(attached_frames[0].id) as events:
            assert [frame.id for frame in await events.read_to_end()] == [frame.id for frame in attached_frames[1:]]
        assert await wire.call_tool("echo", text="x") == "x"
        assert staying.log_lines_of("process.died") == []


async def test_calls_that_outlast_the_grace_are_cancelled_and_answered_with_an_error(
    short_grace_cluster: Cluster,
) -> None:
    """The client gets the error on its open connection, or when it resumes the stream."""
    leaving, staying = short_grace_cluster.servers
    async with open_wire(leaving) as fresh, AsyncExitStack() as streams:
        wire = await fresh.open_session(capabilities={"elicitation": {}})
        there = wire.at(staying)
        attached = await streams.enter_async_context(
            wire.post_stream(wire.tool_request("logs_then_wait", gate="attached", before=1, after=0, id="attached"))
        )
        attached_frames = await attached.read_frames(2)
        asking = await streams.enter_async_context(wire.post_stream(wire.tool_request("elicit", id="asks")))
        await asking.next_message()
        last_event_ids: dict[str, str] = {}
        for tool, more in (("wait_at", {}), ("logs_then_wait", {"before": 1, "after": 0}), ("wait_in_thread", {})):
            async with wire.post_stream(wire.tool_request(tool, gate=f"away {tool}", id=tool, **more)) as events:
                last_event_ids[tool] = (await events.read_frames(1))[0].id or ""
        for each in ("sent", "also sent"):
            assert (await wire.post(wire.tool_request("wait_at", gate=each, id=each), "/send")).status_code == 202
        resumed = await streams.enter_async_context(there.get_stream(last_event_ids["wait_at"]))
        leaving.send_signal()
        for events, request_id in ((attached, "attached"), (asking, "asks"), (resumed, "wait_at")):
            answer = (await events.read_to_end())[-1].message
            assert answer["id"] == request_id
            assert (answer["error"]["code"], answer["error"]["data"]["code"]) == (-32000, "SERVER_DRAINING")
        assert await leaving.wait_for_exit() == 0
        for request_id, event_id in last_event_ids.items():
            async with there.get_stream(event_id) as events:
                frames = await events.read_to_end()
            assert (frames[-1].message["id"], frames[-1].message["error"]["code"]) == (request_id, -32000)
            assert frames[-1].message["error"]["data"]["code"] == "SERVER_DRAINING"
        messages = [event["message"] for event in (await there.receive(wait_seconds=0))["events"]]
        errors = {message["id"]: message["error"]["code"] for message in messages}
        assert errors == {"sent": -32000, "also sent": -32000}
        async with there.get_stream(attached_frames[0].id) as events:
            assert len(await events.read_to_end()) == 2
        assert staying.log_lines_of("process.died") == []


@pytest.mark.parametrize("busy", [True, False])
async def test_clients_behind_a_load_balancer_see_no_refusal(cluster: Cluster, busy: bool) -> None:
    """The process refuses a request before it starts it, so the load balancer can send it to another process."""
    leaving, _ = cluster.servers
    async with run_balancer(cluster) as balancer, open_wire(balancer) as wire, AsyncExitStack() as streams:
        await wire.open_session()
        answers: list[httpx.Response] = []
        stop = anyio.Event()

        async def call_repeatedly(caller: Wire) -> None:
            while not stop.is_set():
                answers.append(await caller.post(caller.tool_request("logs", number=2)))

        async def wait_for_ten_answers() -> None:
            number = len(answers) + 10

            async def has_enough() -> bool:
                return len(answers) >= number

            await wait_until(has_enough, f"there are {number} answers")

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call_repeatedly, await wire.new_client().open_session())
            await wait_for_ten_answers()
            if busy:
                last = await streams.enter_async_context(
                    wire.at(leaving).post_stream(wire.tool_request("wait_at", gate="last"))
                )
                leaving.send_signal()
                await leaving.wait_until_logged("server.draining")
                await wait_for_ten_answers()
                leaving.send_signal(signal.SIGUSR1)  # opens all gates
                assert answer_text((await last.read_to_end())[-1].message) == "through last"
            else:
                leaving.send_signal()
            assert await leaving.wait_for_exit() == 0
            await wait_for_ten_answers()
            stop.set()
        assert {answer.status_code for answer in answers} == {200}
        assert all('"text":"logged"' in answer.text for answer in answers)
        assert len({process_name(first_event_id(answer)) for answer in answers}) == 2


def first_event_id(answer: httpx.Response) -> str:
    return next(line.removeprefix("id: ") for line in answer.text.splitlines() if line.startswith("id: "))
