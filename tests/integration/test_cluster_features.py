"""Several processes on one store: notifications of changes, and completion, in sessions of the handshake era."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
import pytest

from tests.integration.changes import PROMPTS_CHANGED, RESOURCES_CHANGED, TOOLS_CHANGED, next_change
from tests.integration.cluster import Cluster, run_cluster
from tests.integration.load_balancer import LoadBalancer, connect_client
from tests.integration.sdk import Inbox, result_text
from tests.integration.server_process import Server, StartServer, app_name
from tests.integration.stores import sqlite_url
from tests.integration.waiting import wait_until
from tests.integration.wire import EventStream, Wire, open_wire

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with run_cluster("redis", app=app_name("changing")) as cluster:
        yield cluster


@pytest.fixture
async def wire(balancer: LoadBalancer) -> AsyncGenerator[Wire]:
    async with open_wire(balancer) as wire:
        yield wire


# ---------------------------------------------------------------- changes outside of requests


@asynccontextmanager
async def open_streams(wire: Wire, servers: list[Server]) -> AsyncGenerator[list[EventStream]]:
    """Open a session at each process, and its standalone stream at the next process."""
    async with AsyncExitStack() as stack:
        streams: list[EventStream] = []
        for here, there in zip(servers, [*servers[1:], servers[0]], strict=True):
            other = await wire.at(here).new_client().open_session()
            streams.append(await stack.enter_async_context(other.at(there).get_stream()))
        yield streams


async def test_a_client_of_the_sdk_is_notified_of_a_new_tool_and_finds_it_at_every_process(
    balancer: LoadBalancer,
) -> None:
    inbox = Inbox()
    async with connect_client(balancer, message_handler=inbox) as client:
        assert client.server_capabilities is not None
        assert client.server_capabilities.tools is not None
        assert client.server_capabilities.tools.list_changed is True
        for server in balancer.servers:
            server.send_signal(signal.SIGUSR1)
        await inbox.wait_for(TOOLS_CHANGED)

        async def is_listed_everywhere() -> bool:
            lists = [await client.list_tools() for _ in balancer.servers]
            return all("added" in {tool.name for tool in each.tools} for each in lists)

        assert await wait_until(is_listed_everywhere, "every process lists the new tool")
        assert result_text(await client.call_tool("added")) == "added"


async def test_a_change_that_a_task_publishes_reaches_every_session(wire: Wire, balancer: LoadBalancer) -> None:
    await wire.open_session()
    async with open_streams(wire, list(balancer.servers)) as streams:
        for server in balancer.servers:
            server.send_signal(signal.SIGUSR1)
            assert [await next_change(events) for events in streams] == [TOOLS_CHANGED] * 3
        # Each change arrives once: a second notification would arrive before this one.
        balancer.servers[0].send_signal(signal.SIGUSR2)
        assert [await next_change(events) for events in streams] == [RESOURCES_CHANGED] * 3


async def test_a_change_that_a_thread_publishes_reaches_streams_that_open_later(
    wire: Wire, balancer: LoadBalancer
) -> None:
    async with open_wire(balancer) as another:
        await another.open_session()
        await wire.open_session()
        first, second, third = balancer.servers
        async with another.at(second).get_stream() as events:
            first.send_signal(signal.SIGUSR2)
            assert await next_change(events) == RESOURCES_CHANGED
        async with wire.at(third).get_stream() as events:
            assert await next_change(events) == RESOURCES_CHANGED
        received = await wire.at(second).receive(wait_seconds=10)
        assert [each["message"]["method"] for each in received["events"]] == [RESOURCES_CHANGED]


async def test_a_task_can_notify_a_session_whose_stream_is_at_another_process(
    wire: Wire, balancer: LoadBalancer
) -> None:
    first, second, third = balancer.servers
    await wire.open_session()
    other = await wire.new_client().open_session()
    assert await wire.at(first).call_tool("remember_session") == "remembered"
    async with wire.at(second).get_stream() as events, other.at(second).get_stream() as other_events:
        for server in (third, second, first):  # only the last process has remembered the session
            server.send_signal(signal.SIGRTMIN)
        assert await next_change(events) == PROMPTS_CHANGED
        third.send_signal(signal.SIGUSR2)
        assert await next_change(events) == RESOURCES_CHANGED
        assert await next_change(other_events) == RESOURCES_CHANGED, "the other session was not notified"
    assert (await wire.delete()).status_code == 204
    first.send_signal(signal.SIGRTMIN)  # notifying an ended session must log no error, which the fixture checks


async def test_a_change_that_is_published_at_the_start_reaches_existing_sessions(
    start_server: StartServer, tmp_path: Path
) -> None:
    store = {"SESSIONS__STORE": sqlite_url(tmp_path)}
    with start_server(app_name("changing"), **store) as before:
        async with open_wire(before) as wire:
            await wire.open_session()
            with start_server(app_name("changing", "newer"), **store) as after:
                for server in (before, after):
                    async with wire.at(server).get_stream() as events:
                        assert await next_change(events) == TOOLS_CHANGED


# ---------------------------------------------------------------- completion


async def test_completion_is_the_same_in_every_process(wire: Wire, balancer: LoadBalancer) -> None:
    await wire.open_session()
    params = {
        "ref": {"type": "ref/prompt", "name": "introduce"},
        "argument": {"name": "name", "value": "a"},
        "context": {"arguments": {"of": "Oslo"}},
    }
    for server in balancer.servers:
        answer = await wire.at(server).send_request(wire.request("completion/complete", params))
        assert answer["result"]["completion"]["values"] == ["Ada Oslo", "Alan Oslo"]
    async with connect_client(balancer) as client:
        for _ in balancer.servers:
            ref = types.PromptReference(name="introduce")
            found: Any = await client.complete(ref, {"name": "name", "value": "g"})
            assert found.completion.values == ["Grace"]
