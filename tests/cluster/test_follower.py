"""Following a log that is not always the same one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from mcp_tornado.cluster.follower import LogFollower
from mcp_tornado.sessions import ErrorCode, SessionError, system_clock
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

KEY = "@p"


class Store(MemoryStore):
    def __init__(self) -> None:
        super().__init__(system_clock)
        self.away = False

    async def read(self, key, after, *, stream=None, limit=100):
        if self.away:
            raise SessionError(ErrorCode.STORE_UNAVAILABLE)
        return await super().read(key, after, stream=stream, limit=limit)

    async def send(self, name):
        await self.append(KEY, "mail", {"id": name})


@asynccontextmanager
async def following(store: Store):
    taken: asyncio.Queue[str] = asyncio.Queue()

    async def take(message):
        await taken.put(message["id"])

    follower = LogFollower(store, KEY, take)
    await follower.skip()
    task = asyncio.create_task(follower.follow())
    try:
        async with asyncio.timeout(30):
            yield follower, taken
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_was_there_before_is_passed_over():
    async with Store() as store:
        await store.send("before")
        async with following(store) as (_, taken):
            await store.send("after")
            assert await taken.get() == "after"


async def test_a_log_that_was_removed_is_followed_on():
    """Its numbers begin anew, below the one that was read last."""
    async with Store() as store, following(store) as (_, taken):
        for name in ("1", "2", "3"):
            await store.send(name)
            assert await taken.get() == name
        await store.delete(KEY)
        await store.send("4")
        assert await taken.get() == "4"


async def test_nothing_is_taken_twice_and_nothing_missed_when_it_is_read_anew():
    async with Store() as store, following(store) as (follower, taken):
        await store.send("1")
        assert await taken.get() == "1"
        store.away = True
        await store.send("2")
        follower.rewind()
        store.away = False
        await store.send("3")
        assert [await taken.get(), await taken.get()] == ["2", "3"]
