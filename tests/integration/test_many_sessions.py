"""Many sessions at once: each has what is its own, and nothing of another's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack

import anyio
import pytest

from tests.integration.conftest import Server, StartServer, Wire, log_data, text_of, wire_to

pytestmark = pytest.mark.anyio

NUMBER = 200
SHARING = 10

Work = Callable[[Wire, int], Awaitable[None]]


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server() as server:
        yield server


async def in_parallel(server: Server, work: Work) -> None:
    """Run `work(wire, index)` for all sessions at once; a few share an HTTP client, whose pools are slow if large."""
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        for first in range(0, NUMBER, SHARING):
            wire = await stack.enter_async_context(wire_to(server))
            for index in range(first, first + SHARING):
                tasks.start_soon(work, wire.fork(), index)


async def test_each_session_counts_for_itself(server: Server) -> None:
    keys: set[str] = set()

    async def work(wire: Wire, index: int) -> None:
        await wire.open()
        await wire.tool("remember", text=f"I am {index}")
        counted = [await wire.tool("count") for _ in range(1 + index % 5)]
        assert counted == [str(number) for number in range(1, 2 + index % 5)]
        assert await wire.tool("recall") == f"I am {index}"
        keys.add(await wire.tool("whoami"))
        assert (await wire.delete()).status_code == 204

    await in_parallel(server, work)
    assert len(keys) == NUMBER


async def test_each_session_hears_its_own_notifications_only(server: Server) -> None:
    async def work(wire: Wire, index: int) -> None:
        await wire.open()
        async with wire.listen() as standalone:
            await wire.tool("change", uri=f"memo://{index}")
            async with wire.stream(wire.call("logs", number=3, first=1000 * index)) as events:
                frames = await events.rest()
            assert log_data(frames) == [f"{1000 * index + number}:" for number in range(3)]
            messages = [await standalone.message() for _ in range(4)]
            assert messages[-1]["params"]["uri"] == f"memo://{index}"
            assert (await wire.delete()).status_code == 204
            assert await standalone.rest() == [], "nothing else came"

    await in_parallel(server, work)


async def test_each_session_is_asked_its_own_question(server: Server) -> None:
    async def work(wire: Wire, index: int) -> None:
        await wire.open(capabilities={"elicitation": {}})
        async with wire.stream(wire.call("elicit", id=1)) as events:
            question = await events.message()
            answer = {"action": "accept", "content": {"name": f"name {index}"}}
            await wire.post({"jsonrpc": "2.0", "id": question["id"], "result": answer})
            assert text_of(await events.message()) == f"name {index}"

    await in_parallel(server, work)


async def test_one_session_takes_many_calls_at_once(server: Server) -> None:
    async with wire_to(server) as wire, anyio.create_task_group() as tasks:
        await wire.open()

        async def call(index: int) -> None:
            if index % 2:
                assert await wire.tool("echo", text=str(index)) == str(index)
            else:
                async with wire.stream(wire.call("logs", number=4, first=10 * index)) as events:
                    assert log_data(await events.rest()) == [f"{10 * index + number}:" for number in range(4)]

        for index in range(100):
            tasks.start_soon(call, index)
