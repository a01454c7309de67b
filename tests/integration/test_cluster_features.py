"""Several processes on one store: what a session of the handshake era is offered, and hears, in each of them."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import mcp_types as types
import pytest

from tests.integration.cluster import Cluster, Front, answer_to, client_through, cluster_on
from tests.integration.conftest import Events, Server, StartServer, Wire, until, wire_to
from tests.integration.test_sdk_client import Inbox, text

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

CHANGING: Final = Path(__file__).with_name("changing.py")
CHANGED: Final = "memo://changed"
TOOLS: Final = "notifications/tools/list_changed"
PROMPTS: Final = "notifications/prompts/list_changed"
RESOURCES: Final = "notifications/resources/list_changed"
UPDATED: Final = "notifications/resources/updated"


@pytest.fixture(scope="module")
def cluster() -> Generator[Cluster]:
    with cluster_on("redis", app=f"{CHANGING}:server") as cluster:
        yield cluster


@pytest.fixture
async def wire(front: Front) -> AsyncGenerator[Wire]:
    async with wire_to(front) as wire:
        yield wire


async def heard(events: Events) -> str:
    """Return what a stream says next: the method of a notification, or the resource that it names."""
    message = await events.message()
    assert "_meta" not in message.get("params", {})
    return message.get("params", {}).get("uri") or message["method"]


# ---------------------------------------------------------------- changes that no request makes


@asynccontextmanager
async def listening(wire: Wire, servers: list[Server]) -> AsyncGenerator[list[Events]]:
    """Open a session at each process, and read the stream of each at another process."""
    async with AsyncExitStack() as stack:
        streams: list[Events] = []
        for here, there in zip(servers, [*servers[1:], servers[0]], strict=True):
            mine = await wire.at(here).fork().open()
            streams.append(await stack.enter_async_context(mine.at(there).listen()))
        yield streams


async def test_a_client_of_the_sdk_hears_of_a_new_tool_and_finds_it_at_every_process(front: Front) -> None:
    inbox = Inbox()
    async with client_through(front, message_handler=inbox) as client:
        assert client.server_capabilities is not None
        assert client.server_capabilities.tools is not None
        assert client.server_capabilities.tools.list_changed is True
        for server in front.servers:
            server.signal(signal.SIGUSR1)
        await inbox.has(TOOLS)

        async def everywhere() -> bool:
            lists = [await client.list_tools() for _ in front.servers]
            return all("added" in {tool.name for tool in each.tools} for each in lists)

        assert await until(everywhere)
        assert text(await client.call_tool("added")) == "added"


async def test_what_a_task_publishes_in_one_process_is_heard_in_every_session(wire: Wire, front: Front) -> None:
    await wire.open()
    async with listening(wire, list(front.servers)) as streams:
        for server in front.servers:
            server.signal(signal.SIGUSR1)
            assert [await heard(events) for events in streams] == [TOOLS] * 3
        # Once for each time: anything that came twice would come before this.
        front.servers[0].signal(signal.SIGUSR2)
        assert [await heard(events) for events in streams] == [RESOURCES] * 3


async def test_what_a_thread_publishes_is_heard_by_who_comes_to_listen_later(wire: Wire, front: Front) -> None:
    async with wire_to(front) as another:
        await another.open()
        await wire.open()
        first, second, third = front.servers
        async with another.at(second).listen() as events:
            first.signal(signal.SIGUSR2)
            assert await heard(events) == RESOURCES
        async with wire.at(third).listen() as events:
            assert await heard(events) == RESOURCES
        received = (await wire.http.get(f"{second.url}/receive?wait=10", headers=wire.headers)).json()
        assert [each["message"]["method"] for each in received["events"]] == [RESOURCES]


async def test_a_session_that_a_task_keeps_in_mind_is_told_wherever_it_listens(wire: Wire, front: Front) -> None:
    first, second, third = front.servers
    await wire.open()
    other = await wire.fork().open()
    assert await wire.at(first).tool("keep_in_mind") == "kept"
    async with wire.at(second).listen() as events, other.at(second).listen() as theirs:
        for server in (third, second, first):  # only the last one keeps it in mind
            server.signal(signal.SIGRTMIN)
        assert await heard(events) == PROMPTS
        third.signal(signal.SIGUSR2)
        assert await heard(events) == RESOURCES
        assert await heard(theirs) == RESOURCES, "nobody else is told"
    assert (await wire.delete()).status_code == 204
    first.signal(signal.SIGRTMIN)  # it is told no more, and nothing fails: the fixture looks at the log


async def test_a_server_that_starts_with_other_tools_says_so_to_the_sessions_that_there_are(
    start_server: StartServer, tmp_path: Path
) -> None:
    store = {"SESSIONS__STORE": f"sqlite:///{tmp_path / 'sessions.db'}"}
    with start_server(f"{CHANGING}:server", **store) as before:
        async with wire_to(before) as wire:
            await wire.open()
            with start_server(f"{CHANGING}:newer", **store) as after:
                for server in (before, after):
                    async with wire.at(server).listen() as events:
                        assert await heard(events) == TOOLS


# ---------------------------------------------------------------- completion


async def test_completion_is_the_same_in_every_process(wire: Wire, front: Front) -> None:
    await wire.open()
    params = {
        "ref": {"type": "ref/prompt", "name": "introduce"},
        "argument": {"name": "name", "value": "a"},
        "context": {"arguments": {"of": "Oslo"}},
    }
    for server in front.servers:
        answer = await answer_to(wire.at(server), wire.request("completion/complete", params))
        assert answer["result"]["completion"]["values"] == ["Ada Oslo", "Alan Oslo"]
    async with client_through(front) as client:
        for _ in front.servers:
            ref = types.PromptReference(name="introduce")
            found: Any = await client.complete(ref, {"name": "name", "value": "g"})
            assert found.completion.values == ["Grace"]
