"""Several processes behind a load balancer: cancellation and the end of a session reach the process of a call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import httpx
import pytest

from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import LoadBalancer
from tests.integration.wire import UNPRIMED, Wire, answer_text, error_code, has_response, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=["sqlite", "redis", "mongodb"])
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    with run_cluster(request.param) as cluster:
        yield cluster


@pytest.fixture
async def wire(balancer: LoadBalancer) -> AsyncGenerator[Wire]:
    async with open_wire(balancer) as wire:
        yield await wire.open_session(capabilities={"elicitation": {}})


async def wait_until_running(balancer: LoadBalancer, wire: Wire, call: Any) -> Wire:
    """Wait until a call waits at its gate, and return the client for requests to the process that runs the call."""
    there = wire.at(await balancer.server_that_got(call))
    gate = call["params"]["arguments"]["gate"].partition("@")[0]
    await there.call_tool("wait_for_note", note=f"{gate}: started")
    return there


@pytest.mark.parametrize("request_id", [5, "five", "ä.b/c-d 6"])
async def test_a_call_is_cancelled_from_another_process(
    balancer: LoadBalancer, wire: Wire, request_id: str | int
) -> None:
    gate = f"cancel-{request_id}"
    call = wire.tool_request("wait_at", gate=gate, id=request_id)
    async with wire.post_stream(call) as events:
        there = await wait_until_running(balancer, wire, call)
        server = next(server for server in balancer.servers if server is not there.server)
        params = {"requestId": request_id, "reason": "changed my mind"}
        cancellation = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        assert (await wire.at(server).post(cancellation)).status_code == 202
        (answer,) = [frame for frame in await events.read_to_end() if not frame.is_priming]
    assert answer.message["id"] == request_id
    assert answer.message["error"]["code"] == -32800
    assert await there.call_tool("wait_for_note", note=f"{gate}: cancelled")


async def test_a_question_to_the_client_is_cancelled_from_another_process(balancer: LoadBalancer, wire: Wire) -> None:
    call = wire.tool_request("elicit_until_cancelled", gate="asked", id="q")
    async with wire.post_stream(call) as events:
        await events.next_message()
        cancellation = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "q"}}
        assert (await wire.post(cancellation)).status_code == 202
        assert (await events.read_to_end())[-1].message["error"]["code"] == -32800
    assert await balancer.server_that_got(cancellation) is not await balancer.server_that_got(call)


async def test_a_call_is_aborted_from_another_process(balancer: LoadBalancer, wire: Wire) -> None:
    call = wire.tool_request("wait_at", gate="abort", id="job")
    async with wire.post_stream(call) as events:
        there = await wait_until_running(balancer, wire, call)
        aborts = [wire.at(server) for server in balancer.servers if server is not there.server]
        aborted = await aborts[0].post({"requestId": "job", "reason": "enough"}, "/abort")
        assert aborted.status_code == 202, aborted.text
        assert (await events.read_to_end())[-1].message["error"]["code"] == -32800
    assert await there.call_tool("wait_for_note", note="abort: cancelled")
    again = await aborts[1].post({"requestId": "job"}, "/abort")
    assert (again.status_code, error_code(again)) == (404, "REQUEST_NOT_FOUND")


async def test_a_call_that_is_not_streamed_yet_is_aborted_from_another_process(
    balancer: LoadBalancer, wire: Wire
) -> None:
    answers: list[httpx.Response] = []

    async def call(message: Any) -> None:
        answers.append(await wire.post(message))

    async with anyio.create_task_group() as tasks:
        message = wire.tool_request("wait_at", gate="json-abort", id="job")
        tasks.start_soon(call, message)
        there = await wait_until_running(balancer, wire, message)
        other = next(server for server in balancer.servers if server is not there.server)
        assert (await wire.at(other).post({"requestId": "job"}, "/abort")).status_code == 202
    assert '"code":-32800' in answers[0].text


async def test_a_session_cannot_cancel_a_call_of_another_session(
    cluster: Cluster, balancer: LoadBalancer, wire: Wire
) -> None:
    call = wire.tool_request("wait_at", gate="mine", id="shared")
    async with wire.post_stream(call) as events:
        await wait_until_running(balancer, wire, call)
        other = await wire.new_client().open_session()
        cancellation = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "shared"}}
        for server in balancer.servers:
            assert (await other.at(server).post(cancellation)).status_code == 202
        refused = await other.post({"requestId": "shared"}, "/abort")
        assert (refused.status_code, error_code(refused)) == (404, "REQUEST_NOT_FOUND")
        await cluster.open_gate(wire, "mine")
        assert answer_text((await events.read_to_end())[-1].message) == "through mine"


async def test_a_background_call_is_aborted_from_another_process(balancer: LoadBalancer, wire: Wire) -> None:
    call = wire.tool_request("wait_at", gate="background", id="job")
    await wire.post(call, "/send")
    there = await wait_until_running(balancer, wire, call)
    server = next(server for server in balancer.servers if server is not there.server)
    assert (await wire.at(server).post({"requestId": "job"}, "/abort")).status_code == 202
    (event,), _ = await wire.receive_until(has_response)
    answer = event["message"]
    assert (answer["id"], answer["error"]["code"]) == ("job", -32800)


@pytest.mark.parametrize("version", ["2025-11-25", UNPRIMED])
async def test_delete_ends_calls_and_streams_at_every_process(balancer: LoadBalancer, wire: Wire, version: str) -> None:
    """DELETE at one process ends calls, streams and long polls at the other processes."""
    first, second, third = balancer.servers
    mine = await wire.new_client().open_session(version)
    polled: list[httpx.Response] = []

    async def poll() -> None:
        headers = {**mine.headers, "Accept": "application/json"}
        polled.append(await mine.http.get(f"{third.url}/receive?wait=60", headers=headers))

    gates = {name: f"{name}-{version}" for name in ("streamed", "background")}
    async with (
        anyio.create_task_group() as tasks,
        mine.at(second).get_stream() as standalone,
        mine.at(third).get_stream(path="/receive", Accept="text/event-stream") as received,
        mine.at(first).post_stream(mine.tool_request("wait_at", gate=gates["streamed"], id="streamed")) as streamed,
    ):
        await mine.at(second).post(mine.tool_request("wait_at", gate=gates["background"], id="background"), "/send")
        await mine.at(first).call_tool("wait_for_note", note=f"{gates['streamed']}: started")
        await mine.at(second).call_tool("wait_for_note", note=f"{gates['background']}: started")
        tasks.start_soon(poll)
        await mine.at(third).call_tool("echo", text="the poll has begun when this call is answered")
        assert (await mine.at(third).delete()).status_code == 204
        assert await standalone.read_to_end() == []
        ends = [frame for frame in await streamed.read_to_end() if not frame.is_priming]
        assert [(end.message["id"], end.message["error"]["code"]) for end in ends] == [("streamed", -32000)]
        assert all("result" not in frame.message for frame in await received.read_to_end())
    assert (polled[0].status_code, error_code(polled[0])) == (404, "SESSION_NOT_FOUND")
    for server, gate in ((first, gates["streamed"]), (second, gates["background"])):
        assert await wire.at(server).call_tool("wait_for_note", note=f"{gate}: cancelled")
    for server in balancer.servers:
        dead = await mine.at(server).post(mine.tool_request("echo", text="x"))
        assert (dead.status_code, error_code(dead)) == (404, "SESSION_NOT_FOUND")
