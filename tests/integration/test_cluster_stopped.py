"""Several processes, one of which is stopped for so long that the others take it for dead, and then goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from tests.integration.cluster import Cluster, cluster_on, freeze, read
from tests.integration.conftest import Wire, log_data, text_of, until, wire_to

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["sqlite"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    # What was under way with the store when the process was stopped has taken too long.
    with cluster_on(request.param, size=2, expected=["store.error"]) as cluster:
        yield cluster


async def received(wire: Wire) -> list[Any]:
    """Return all that there is to receive."""
    headers = {**wire.headers, "Accept": "application/json"}
    response = await wire.http.get(f"{wire.server.url}/receive", headers=headers)
    return [event["message"] for event in response.json()["events"]]


async def is_cancelled(here: Wire, there: Wire, gate: str) -> bool:
    """Cancel a call from another process; say whether it has come to that."""
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": gate}}
    assert (await there.post(note)).status_code == 202
    return json.loads(await here.tool("holds", what=f"{gate}: cancelled"))


async def test_a_process_that_was_taken_for_dead_goes_on(cluster: Cluster) -> None:
    """What others have answered it does not answer again; what nobody has asked for elsewhere it finishes."""
    stopped, living = cluster.servers
    async with wire_to(stopped) as fresh, anyio.create_task_group() as tasks:
        wire = await fresh.open(capabilities={"elicitation": {}})
        away = await fresh.fork().open()
        before = await fresh.fork().open()
        there = wire.at(living)
        replies: list[httpx.Response] = []

        async def answer(question: Any) -> None:
            result = {"action": "accept", "content": {"name": "Ada"}}
            replies.append(await there.post({"jsonrpc": "2.0", "id": question["id"], "result": result}))

        given_up = away.call("logs_then_wait", gate="given up", before=2, after=2, id="given up")
        async with away.stream(given_up) as events:
            frames = await read(events, 3)
        assert (await away.post(away.call("wait_at", gate="sent", id="sent"), "/send")).status_code == 202
        await away.tool("seen", what="sent: started")
        kept = wire.call("logs_then_wait", gate="kept", before=2, after=2, id="kept")
        async with (
            wire.stream(kept) as attached,
            wire.stream(wire.call("elicit", id="asks")) as asking,
            before.listen() as holder,
        ):
            seen = await read(attached, 3)
            question = await asking.message()

            freeze(stopped.pid)
            try:
                tasks.start_soon(answer, question)
                async with before.at(living).listen() as successor:
                    assert successor.response.status_code == 200
                    async with away.at(living).listen(path="/receive", Accept="text/event-stream") as events:
                        lost = await events.message()
                    assert (lost["id"], lost["error"]["code"]) == ("sent", -32000)
                    async with away.at(living).listen(frames[-1].id) as events:
                        (end,) = await events.rest()
                    assert (end.message["id"], end.message["error"]["code"]) == ("given up", -32000)
                    assert log_data(frames) == ["0:", "1:"]
                    stopped.signal(signal.SIGCONT)
                    assert await holder.rest() == [], "its client listens elsewhere"
                    await before.at(living).tool("change")
                    assert await successor.message()
            finally:
                stopped.signal(signal.SIGCONT)

            await stopped.line("process.was_silent")
            assert text_of(await asking.message()) == "Ada"
            for gate in ("kept", "given up", "sent"):
                await cluster.open_gate(wire, gate)
            seen += await attached.rest()
            assert log_data(seen) == ["0:", "1:", "2:", "3:"]
            assert text_of(seen[-1].message) == "logged"
        assert [reply.status_code for reply in replies] == [202]

        await away.tool("seen", what="sent: finished")
        for server in cluster.servers:
            assert [message["id"] for message in await received(away.at(server))] == ["sent"]
            async with away.at(server).listen(frames[-1].id) as events:
                assert [frame.id for frame in await events.rest()] == [end.id]

        # It is one of them again before long: mail reaches it and comes from it.
        for one, other in ((stopped, living), (living, stopped)):
            gate = f"cancelled from {other.url}"

            async with wire.at(one).stream(wire.call("wait_at", gate=gate, id=gate)) as events:
                await wire.at(one).tool("seen", what=f"{gate}: started")
                assert await until(partial(is_cancelled, wire.at(one), wire.at(other), gate))
                assert (await events.rest())[-1].message["error"]["code"] == -32800
