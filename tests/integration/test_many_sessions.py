"""Many concurrent sessions: none gets anything of another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack

import anyio
import pytest

from tests.integration.server_process import Server, StartServer
from tests.integration.wire import Wire, answer_text, log_data, open_wire

pytestmark = pytest.mark.anyio

SESSIONS = 200
SESSIONS_PER_HTTP_CLIENT = 10
"""The connection pool of an HTTP client is slow if it is large."""

Work = Callable[[Wire, int], Awaitable[None]]


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server() as server:
        yield server


async def run_in_parallel(server: Server, work: Work) -> None:
    """Run `work(wire, index)` for all sessions at once."""
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        for first in range(0, SESSIONS, SESSIONS_PER_HTTP_CLIENT):
            wire = await stack.enter_async_context(open_wire(server))
            for index in range(first, first + SESSIONS_PER_HTTP_CLIENT):
                tasks.start_soon(work, wire.new_client(), index)


async def test_each_session_has_its_own_count(server: Server) -> None:
    keys: set[str] = set()

    async def work(wire: Wire, index: int) -> None:
        await wire.open_session()
        await wire.call_tool("remember", text=f"I am {index}")
        counted = [await wire.call_tool("count") for _ in range(1 + index % 5)]
        assert counted == [str(number) for number in range(1, 2 + index % 5)]
        assert await wire.call_tool("recall") == f"I am {index}"
        keys.add(await wire.call_tool("whoami"))
        assert (await wire.delete()).status_code == 204

    await run_in_parallel(server, work)
    assert len(keys) == SESSIONS


async def test_each_session_gets_only_its_own_notifications(server: Server) -> None:
    async def work(wire: Wire, index: int) -> None:
        await wire.open_session()
        async with wire.get_stream() as standalone:
            await wire.call_tool("change", uri=f"memo://{index}")
            async with wire.post_stream(wire.tool_request("logs", number=3, first=1000 * index)) as events:
                frames = await events.read_to_end()
            assert log_data(frames) == [f"{1000 * index + number}:" for number in range(3)]
            messages = [await standalone.next_message() for _ in range(4)]
            assert messages[-1]["params"]["uri"] == f"memo://{index}"
            assert (await wire.delete()).status_code == 204
            assert await standalone.read_to_end() == [], "the stream must have no other event"

    await run_in_parallel(server, work)


async def test_each_session_gets_only_its_own_question(server: Server) -> None:
    async def work(wire: Wire, index: int) -> None:
        await wire.open_session(capabilities={"elicitation": {}})
        async with wire.post_stream(wire.tool_request("elicit", id=1)) as events:
            question = await events.next_message()
            answer = {"action": "accept", "content": {"name": f"name {index}"}}
            await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
            assert answer_text(await events.next_message()) == f"name {index}"

    await run_in_parallel(server, work)


async def test_one_session_can_have_many_concurrent_calls(server: Server) -> None:
    async with open_wire(server) as wire, anyio.create_task_group() as tasks:
        await wire.open_session()

        async def call(index: int) -> None:
            if index % 2:
                assert await wire.call_tool("echo", text=str(index)) == str(index)
            else:
                async with wire.post_stream(wire.tool_request("logs", number=4, first=10 * index)) as events:
                    assert log_data(await events.read_to_end()) == [f"{10 * index + number}:" for number in range(4)]

        for index in range(100):
            tasks.start_soon(call, index)
