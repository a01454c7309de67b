"""The store of a cluster is unreachable for a while: requests are refused in time, and no event is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, AsyncExitStack
from typing import Any

import anyio
import httpx
import pytest

from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import LoadBalancer
from tests.integration.waiting import wait_until
from tests.integration.wire import Frame, Wire, answer_text, error_code, log_data, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["killed", "frozen"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with run_cluster("redis", expected_errors=["store.error"]) as cluster:
        assert cluster.store_server is not None
        yield cluster


@pytest.fixture
def outage(request: pytest.FixtureRequest, cluster: Cluster) -> Callable[[], AbstractContextManager[None]]:
    """Return a context manager that makes the store unreachable."""
    store = cluster.store_server
    assert store is not None
    return store.killed if request.node.callspec.params["cluster"] == "killed" else store.frozen


async def test_no_event_is_lost_during_an_outage_of_the_store(
    cluster: Cluster, balancer: LoadBalancer, outage: Callable[[], AbstractContextManager[None]]
) -> None:
    silent_server, logging_server, other_server = cluster.servers
    async with open_wire(balancer) as fresh, AsyncExitStack() as streams:
        wire = await fresh.open_session(capabilities={"elicitation": {}})
        listening = await fresh.new_client().open_session()
        at_silent, at_logging, at_other = (wire.at(server) for server in cluster.servers)
        answers: list[httpx.Response] = []
        standalone_frames: list[Frame] = []

        async def call(message: Any) -> None:
            answers.append(await at_silent.post(message))

        async def has_answer() -> bool:
            return len(answers) == 1

        async with anyio.create_task_group() as tasks:
            standalone = await streams.enter_async_context(listening.at(other_server).get_stream())
            await listening.call_tool("change")
            standalone_frames += await standalone.read_frames(4)
            attached = await streams.enter_async_context(
                at_logging.post_stream(
                    wire.tool_request("logs_then_wait", gate="attached", before=3, after=3, id="attached")
                )
            )
            attached_frames = await attached.read_frames(4)
            async with at_logging.post_stream(
                wire.tool_request("logs_then_wait", gate="away", before=3, after=3, id="away")
            ) as events:
                away_frames = await events.read_frames(2)
            sent = wire.tool_request("logs_then_wait", gate="sent", before=3, after=3, id="sent")
            assert (await at_logging.post(sent, "/send")).status_code == 202
            await at_logging.call_tool("wait_for_note", note="sent: started")
            tasks.start_soon(call, wire.tool_request("wait_at", gate="silent", id="silent"))
            await at_silent.call_tool("wait_for_note", note="silent: started")

            with outage():
                for refused in await send_every_request(wire, cluster):
                    assert (refused.status_code, error_code(refused)) == (503, "STORE_UNAVAILABLE")
                    assert int(refused.headers["Retry-After"]) > 0
                for server in cluster.servers:
                    assert (await wire.http.get(f"{server.origin}/healthz")).status_code == 200
                silent_server.send_signal(signal.SIGUSR1)  # opens all gates of the process
                await wait_until(has_answer, "the silent call is answered")
                logging_server.send_signal(signal.SIGUSR1)
            assert "through silent" in answers[0].text

            attached_frames += await attached.read_to_end()
            assert_complete(attached_frames)
            async with at_other.get_stream(away_frames[-1].id) as events:
                away_frames += await events.read_to_end()
            assert_complete(away_frames)
            async with at_other.get_stream(path="/receive", Accept="text/event-stream") as events:
                assert_complete(await events.read_frames(7))

        await check_recovery(balancer, wire)
        # The client resumes the standalone stream at another process, whether the stream broke or not.
        async with listening.at(silent_server).get_stream(standalone_frames[-1].id) as events:
            await listening.call_tool("change")
            assert len(await events.read_frames(4)) == 4
        for server in cluster.servers:
            assert server.log_lines_of("process.died") == []


async def send_every_request(wire: Wire, cluster: Cluster) -> list[httpx.Response]:
    """Send every kind of request that needs the store to every process, at once, and return the responses."""
    responses: list[httpx.Response] = []

    async def collect(response: Any) -> None:
        responses.append(await response)

    async with anyio.create_task_group() as tasks:
        for server in cluster.servers:
            client = wire.at(server)
            tasks.start_soon(collect, wire.http.get(f"{server.origin}/readyz"))
            tasks.start_soon(collect, client.post(wire.tool_request("echo", text="x")))
            tasks.start_soon(collect, client.post(wire.tool_request("echo", text="x"), "/send"))
            tasks.start_soon(collect, client.post({"requestId": 1}, "/abort"))
            tasks.start_soon(collect, client.new_client().initialize())
            tasks.start_soon(collect, client.new_client().post(None, "/session"))
            tasks.start_soon(collect, client.delete())
            tasks.start_soon(collect, wire.http.get(f"{server.url}/receive?wait=1", headers=wire.headers))
    assert len(responses) == 8 * len(cluster.servers)
    return responses


async def check_recovery(balancer: LoadBalancer, wire: Wire) -> None:
    """Wait until every process is ready, and check that questions and replies pass between all processes."""
    for server in balancer.servers:

        async def is_ready(origin: str = server.origin) -> bool:
            return (await wire.http.get(f"{origin}/readyz")).status_code == 200

        await wait_until(is_ready, f"{server.origin} is ready")
    for one in balancer.servers:
        for other in balancer.servers:
            async with wire.at(one).post_stream(wire.tool_request("elicit")) as events:
                question = await events.next_message()
                answer = {"action": "accept", "content": {"name": "Ada"}}
                await wire.at(other).post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
                assert answer_text(await events.next_message()) == "Ada"


def assert_complete(frames: list[Frame]) -> None:
    """Check that the events of a call are complete, in order and without duplicates."""
    assert log_data(frames) == [f"{index}:" for index in range(6)]
    assert answer_text(frames[-1].message) == "logged"
    ids = [frame.id or "" for frame in frames]
    assert ids == sorted(set(ids))
