"""A process of a cluster is stopped until the others count it as dead, and then continues."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from tests.integration.cluster import Cluster, run_cluster
from tests.integration.stores import freeze_process
from tests.integration.waiting import wait_until
from tests.integration.wire import Wire, answer_text, log_data, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["sqlite"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    # Operations of the store that ran when the process was stopped exceed their timeout.
    with run_cluster(request.param, size=2, expected_errors=["store.error"]) as cluster:
        yield cluster


async def is_cancelled(here: Wire, there: Wire, gate: str) -> bool:
    """Cancel a call of one process through another process, and return whether the call is cancelled."""
    cancellation = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": gate}}
    assert (await there.post(cancellation)).status_code == 202
    return json.loads(await here.call_tool("has_note", note=f"{gate}: cancelled"))


async def test_a_process_that_counted_as_dead_continues(cluster: Cluster) -> None:
    """It does not answer calls that the other process has answered, and it finishes all other calls."""
    stopped, live = cluster.servers
    async with open_wire(stopped) as fresh, anyio.create_task_group() as tasks:
        wire = await fresh.open_session(capabilities={"elicitation": {}})
        away = await fresh.new_client().open_session()
        listening = await fresh.new_client().open_session()
        there = wire.at(live)
        replies: list[httpx.Response] = []

        async def answer(question: Any) -> None:
            result = {"action": "accept", "content": {"name": "Ada"}}
            replies.append(await there.post({"jsonrpc": "2.0", "id": question["id"], "result": result}))

        given_up = away.tool_request("logs_then_wait", gate="given up", before=2, after=2, id="given up")
        async with away.post_stream(given_up) as events:
            away_frames = await events.read_frames(3)
        assert (await away.post(away.tool_request("wait_at", gate="sent", id="sent"), "/send")).status_code == 202
        await away.call_tool("wait_for_note", note="sent: started")
        kept = wire.tool_request("logs_then_wait", gate="kept", before=2, after=2, id="kept")
        async with (
            wire.post_stream(kept) as attached,
            wire.post_stream(wire.tool_request("elicit", id="asks")) as asking,
            listening.get_stream() as old_stream,
        ):
            attached_frames = await attached.read_frames(3)
            question = await asking.next_message()

            freeze_process(stopped.pid)
            try:
                tasks.start_soon(answer, question)
                async with listening.at(live).get_stream() as new_stream:
                    assert new_stream.response.status_code == 200
                    async with away.at(live).get_stream(path="/receive", Accept="text/event-stream") as events:
                        answer_to_sent = await events.next_message()
                    assert (answer_to_sent["id"], answer_to_sent["error"]["code"]) == ("sent", -32000)
                    async with away.at(live).get_stream(away_frames[-1].id) as events:
                        (error,) = await events.read_to_end()
                    assert (error.message["id"], error.message["error"]["code"]) == ("given up", -32000)
                    assert log_data(away_frames) == ["0:", "1:"]
                    stopped.send_signal(signal.SIGCONT)
                    assert await old_stream.read_to_end() == [], "the old stream must end without events"
                    await listening.at(live).call_tool("change")
                    assert await new_stream.next_message()
            finally:
                stopped.send_signal(signal.SIGCONT)

            await stopped.wait_until_logged("process.was_silent")
            assert answer_text(await asking.next_message()) == "Ada"
            for gate in ("kept", "given up", "sent"):
                await cluster.open_gate(wire, gate)
            attached_frames += await attached.read_to_end()
            assert log_data(attached_frames) == ["0:", "1:", "2:", "3:"]
            assert answer_text(attached_frames[-1].message) == "logged"
        assert [reply.status_code for reply in replies] == [202]

        await away.call_tool("wait_for_note", note="sent: finished")
        for server in cluster.servers:
            received = await away.at(server).receive(wait_seconds=0)
            assert [event["message"]["id"] for event in received["events"]] == ["sent"]
            async with away.at(server).get_stream(away_frames[-1].id) as events:
                assert [frame.id for frame in await events.read_to_end()] == [error.id]

        # The process joins the membership again: it receives and sends messages.
        for one, other in ((stopped, live), (live, stopped)):
            gate = f"cancelled from {other.url}"

            async with wire.at(one).post_stream(wire.tool_request("wait_at", gate=gate, id=gate)) as events:
                await wire.at(one).call_tool("wait_for_note", note=f"{gate}: started")
                cancelled = partial(is_cancelled, wire.at(one), wire.at(other), gate)
                assert await wait_until(cancelled, f"the call is {gate}")
                assert (await events.read_to_end())[-1].message["error"]["code"] == -32800
