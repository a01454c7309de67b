"""Several processes whose store goes away and comes back: refusals in time, nothing lost, no restart needed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, AsyncExitStack
from typing import Any

import anyio
import httpx
import pytest

from tests.integration.cluster import Cluster, Front, cluster_on, read
from tests.integration.conftest import Frame, Wire, error_code, log_data, text_of, until, wire_to

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["killed", "frozen"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with cluster_on("redis", expected=["store.error"]) as cluster:
        assert cluster.store_server is not None
        yield cluster


@pytest.fixture
def outage(request: pytest.FixtureRequest, cluster: Cluster) -> Callable[[], AbstractContextManager[None]]:
    """Return what takes the store away for the length of a block."""
    store = cluster.store_server
    assert store is not None
    return store.killed if request.node.callspec.params["cluster"] == "killed" else store.frozen


async def test_the_store_goes_away_and_comes_back(
    cluster: Cluster, front: Front, outage: Callable[[], AbstractContextManager[None]]
) -> None:
    silent_at, talking_at, other = cluster.servers
    async with wire_to(front) as fresh, AsyncExitStack() as streams:
        wire = await fresh.open(capabilities={"elicitation": {}})
        listening = await fresh.fork().open()
        at_silent, at_talking, at_other = (wire.at(server) for server in cluster.servers)
        answers: list[httpx.Response] = []
        heard: list[Frame] = []

        async def call(message: Any) -> None:
            answers.append(await at_silent.post(message))

        async with anyio.create_task_group() as tasks:
            standalone = await streams.enter_async_context(listening.at(other).listen())
            await listening.tool("change")
            heard += await read(standalone, 4)
            attached = await streams.enter_async_context(
                at_talking.stream(wire.call("logs_then_wait", gate="attached", before=3, after=3, id="attached"))
            )
            seen = await read(attached, 4)
            async with at_talking.stream(
                wire.call("logs_then_wait", gate="away", before=3, after=3, id="away")
            ) as events:
                missed = await read(events, 2)
            sent = wire.call("logs_then_wait", gate="sent", before=3, after=3, id="sent")
            assert (await at_talking.post(sent, "/send")).status_code == 202
            await at_talking.tool("seen", what="sent: started")
            tasks.start_soon(call, wire.call("wait_at", gate="silent", id="silent"))
            await at_silent.tool("seen", what="silent: started")

            with outage():
                for refused in await refusals(wire, cluster):
                    assert (refused.status_code, error_code(refused)) == (503, "STORE_UNAVAILABLE")
                    assert int(refused.headers["Retry-After"]) > 0
                for server in cluster.servers:
                    assert (await wire.http.get(f"{server.origin}/healthz")).status_code == 200
                silent_at.signal(signal.SIGUSR1)  # all gates of the process open
                await until(lambda: _are(answers, 1))
                talking_at.signal(signal.SIGUSR1)
            assert "through silent" in answers[0].text

            seen += await attached.rest()
            assert_complete(seen)
            async with at_other.listen(missed[-1].id) as events:
                missed += await events.rest()
            assert_complete(missed)
            async with at_other.listen(path="/receive", Accept="text/event-stream") as events:
                assert_complete(await read(events, 7))

        await recovered(front, wire)
        # Whether its stream has broken or not, its client goes on elsewhere.
        async with listening.at(silent_at).listen(heard[-1].id) as events:
            await listening.tool("change")
            assert len(await read(events, 4)) == 4
        for server in cluster.servers:
            assert server.events("process.died") == []


async def refusals(wire: Wire, cluster: Cluster) -> list[httpx.Response]:
    """Ask every process for everything that needs the store, at once, and return the answers."""
    responses: list[httpx.Response] = []

    async def note(response: Any) -> None:
        responses.append(await response)

    async with anyio.create_task_group() as tasks:
        for server in cluster.servers:
            mine = wire.at(server)
            tasks.start_soon(note, wire.http.get(f"{server.origin}/readyz"))
            tasks.start_soon(note, mine.post(wire.call("echo", text="x")))
            tasks.start_soon(note, mine.post(wire.call("echo", text="x"), "/send"))
            tasks.start_soon(note, mine.post({"requestId": 1}, "/abort"))
            tasks.start_soon(note, mine.fork().initialize())
            tasks.start_soon(note, mine.fork().post(None, "/session"))
            tasks.start_soon(note, mine.delete())
            tasks.start_soon(note, wire.http.get(f"{server.url}/receive?wait=1", headers=wire.headers))
    assert len(responses) == 8 * len(cluster.servers)
    return responses


async def recovered(front: Front, wire: Wire) -> None:
    """Check that everything works among all processes, and that the session is as it was."""
    for server in front.servers:

        async def is_ready(origin: str = server.origin) -> bool:
            return (await wire.http.get(f"{origin}/readyz")).status_code == 200

        await until(is_ready)
    for one in front.servers:
        for other in front.servers:
            async with wire.at(one).stream(wire.call("elicit")) as events:
                question = await events.message()
                answer = {"action": "accept", "content": {"name": "Ada"}}
                await wire.at(other).post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
                assert text_of(await events.message()) == "Ada"


def assert_complete(frames: list[Frame]) -> None:
    """Check that the frames of a call are all there, in order, and none of them twice."""
    assert log_data(frames) == [f"{index}:" for index in range(6)]
    assert text_of(frames[-1].message) == "logged"
    ids = [frame.id or "" for frame in frames]
    assert ids == sorted(set(ids))


async def _are(values: list[Any], number: int) -> bool:
    return len(values) == number
