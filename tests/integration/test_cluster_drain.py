"""Several processes, one of which is told to stop: what it runs is finished or told, the rest goes on elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx
import pytest

from tests.integration.cluster import Cluster, cluster_on, front_of, process_of, read
from tests.integration.conftest import Wire, error_code, log_data, text_of, until, wire_to

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with cluster_on(request.param, size=2, SERVER__SHUTDOWN_GRACE_SECONDS=3600) as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "redis"])
def hasty(request: pytest.FixtureRequest) -> Generator[Cluster]:
    """A cluster whose processes wait for calls hardly at all."""
    with cluster_on(request.param, size=2, SERVER__SHUTDOWN_GRACE_SECONDS=0.2) as cluster:
        yield cluster


async def received(wire: Wire) -> list[Any]:
    """Return all that there is to receive."""
    headers = {**wire.headers, "Accept": "application/json"}
    response = await wire.http.get(f"{wire.server.url}/receive", headers=headers)
    return [event["message"] for event in response.json()["events"]]


async def test_what_runs_is_finished_and_everything_else_goes_on_elsewhere(cluster: Cluster) -> None:
    leaving, staying = cluster.servers
    async with front_of(cluster) as front, wire_to(front) as fresh, AsyncExitStack() as streams:
        wire = await fresh.open(capabilities={"elicitation": {}})
        here, there = wire.at(leaving), wire.at(staying)
        standalone = await streams.enter_async_context(here.listen())
        receiving = await streams.enter_async_context(here.listen(path="/receive", Accept="text/event-stream"))
        await here.tool("change")
        unasked = await read(standalone, 4)
        shown = await read(receiving, 4)
        attached = await streams.enter_async_context(
            here.stream(here.call("logs_then_wait", gate="attached", before=2, after=2, id="attached"))
        )
        seen = await read(attached, 3)
        asking = await streams.enter_async_context(here.stream(here.call("elicit", id="asks")))
        question = await asking.message()
        async with here.stream(here.call("logs_then_wait", gate="away", before=2, after=2, id="away")) as events:
            missed = await read(events, 2)
        assert (await here.post(here.call("wait_at", gate="sent", id="sent"), "/send")).status_code == 202

        leaving.signal()
        await leaving.line("server.draining")
        ready = await wire.http.get(f"{leaving.origin}/readyz")
        assert (ready.status_code, error_code(ready)) == (503, "SERVER_DRAINING")
        for path in ("", "/send"):
            refused = await here.post(wire.call("echo", text="x"), path)
            assert (refused.status_code, error_code(refused)) == (503, "SERVER_DRAINING")
            assert int(refused.headers["Retry-After"]) > 0
        for _ in range(4):
            assert await wire.tool("echo", text="elsewhere") == "elsewhere"

        # Streams that no answer would end do so, and are resumed elsewhere.
        assert await standalone.rest() == []
        assert await receiving.rest() == []
        standalone = await streams.enter_async_context(wire.listen(unasked[-1].id))
        receiving = await streams.enter_async_context(wire.listen(shown[-1].id, "/receive", Accept="text/event-stream"))
        await wire.tool("change")
        assert len(await read(standalone, 4)) == len(await read(receiving, 4)) == 4

        # What runs goes on, with its client attached, asked, come back elsewhere, or not waiting at all.
        result = {"action": "accept", "content": {"name": "Ada"}}
        assert (await there.post({"jsonrpc": "2.0", "id": question["id"], "result": result})).status_code == 202
        assert text_of(await asking.message()) == "Ada"
        resumed = await streams.enter_async_context(wire.listen(missed[-1].id))
        assert resumed.response.status_code == 200
        leaving.signal(signal.SIGUSR1)  # all gates open
        seen += await attached.rest()
        missed += await resumed.rest()
        for frames in (seen, missed):
            assert log_data(frames) == ["0:", "1:", "2:", "3:"]
            assert text_of(frames[-1].message) == "logged"
        answer = await receiving.message()
        assert (answer["id"], text_of(answer)) == ("sent", "through sent")
        assert await leaving.exit_code() == 0

        # It is gone, and nobody has to find out that it is; what it wrote is still there.
        async with wire.listen(seen[0].id) as events:
            assert [frame.id for frame in await events.rest()] == [frame.id for frame in seen[1:]]
        assert await wire.tool("echo", text="still") == "still"
        assert staying.events("process.died") == []


async def test_what_outlasts_the_grace_is_cancelled_and_its_client_told(hasty: Cluster) -> None:
    """Told on the connection that it has, or where it comes back."""
    leaving, staying = hasty.servers
    async with wire_to(leaving) as fresh, AsyncExitStack() as streams:
        wire = await fresh.open(capabilities={"elicitation": {}})
        there = wire.at(staying)
        attached = await streams.enter_async_context(
            wire.stream(wire.call("logs_then_wait", gate="attached", before=1, after=0, id="attached"))
        )
        seen = await read(attached, 2)
        asking = await streams.enter_async_context(wire.stream(wire.call("elicit", id="asks")))
        await asking.message()
        gone: dict[str, str] = {}
        for tool, more in (("wait_at", {}), ("logs_then_wait", {"before": 1, "after": 0}), ("wait_in_thread", {})):
            async with wire.stream(wire.call(tool, gate=f"gone {tool}", id=tool, **more)) as events:
                gone[tool] = (await read(events, 1))[0].id or ""
        for each in ("sent", "also sent"):
            assert (await wire.post(wire.call("wait_at", gate=each, id=each), "/send")).status_code == 202
        resumed = await streams.enter_async_context(there.listen(gone["wait_at"]))
        leaving.signal()
        for events, request_id in ((attached, "attached"), (asking, "asks"), (resumed, "wait_at")):
            told = (await events.rest())[-1].message
            assert told["id"] == request_id
            assert (told["error"]["code"], told["error"]["data"]["code"]) == (-32000, "SERVER_DRAINING")
        assert await leaving.exit_code() == 0
        for request_id, event_id in gone.items():
            async with there.listen(event_id) as events:
                frames = await events.rest()
            assert (frames[-1].message["id"], frames[-1].message["error"]["code"]) == (request_id, -32000)
            assert frames[-1].message["error"]["data"]["code"] == "SERVER_DRAINING"
        ends = {message["id"]: message["error"]["code"] for message in await received(there)}
        assert ends == {"sent": -32000, "also sent": -32000}
        async with there.listen(seen[0].id) as events:
            assert len(await events.rest()) == 2
        assert staying.events("process.died") == []


@pytest.mark.parametrize("busy", [True, False])
async def test_clients_do_not_notice_that_a_process_leaves(cluster: Cluster, busy: bool) -> None:
    """What is sent to it is refused before it is begun, and so the proxy can send it to another one."""
    leaving, _ = cluster.servers
    async with front_of(cluster) as front, wire_to(front) as wire, AsyncExitStack() as streams:
        await wire.open()
        answers: list[httpx.Response] = []
        stop = anyio.Event()

        async def calls(mine: Wire) -> None:
            while not stop.is_set():
                answers.append(await mine.post(mine.call("logs", number=2)))

        async def more() -> None:
            enough = len(answers) + 10

            async def are_there() -> bool:
                return len(answers) >= enough

            await until(are_there)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(calls, await wire.fork().open())
            await more()
            if busy:
                last = await streams.enter_async_context(wire.at(leaving).stream(wire.call("wait_at", gate="last")))
                leaving.signal()
                await leaving.line("server.draining")
                await more()
                leaving.signal(signal.SIGUSR1)  # all gates open
                assert text_of((await last.rest())[-1].message) == "through last"
            else:
                leaving.signal()
            assert await leaving.exit_code() == 0
            await more()
            stop.set()
        assert {answer.status_code for answer in answers} == {200}
        assert all('"text":"logged"' in answer.text for answer in answers)
        assert len({process_of(_first_id(answer)) for answer in answers}) == 2


def _first_id(answer: httpx.Response) -> str:
    return next(line.removeprefix("id: ") for line in answer.text.splitlines() if line.startswith("id: "))
