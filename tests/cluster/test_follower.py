"""Following a log that is removed, or whose store is unavailable for a time."""

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
    """A store whose reads can be made to fail."""

    def __init__(self) -> None:
        super().__init__(system_clock)
        self.is_unavailable = False

    async def read(self, key, after, *, stream=None, limit=100):
        if self.is_unavailable:
            raise SessionError(ErrorCode.STORE_UNAVAILABLE)
        return await super().read(key, after, stream=stream, limit=limit)

    async def send(self, message_id):
        await self.append(KEY, "mail", {"id": message_id})


@asynccontextmanager
async def following(store: Store):
    """Follow the log from its end; yield the follower, and a queue of the ids of the messages that it passes on."""
    handled: asyncio.Queue[str] = asyncio.Queue()

    async def handle(message):
        await handled.put(message["id"])

    follower = LogFollower(store, KEY, handle)
    await follower.seek_to_end()
    task = asyncio.create_task(follower.follow())
    try:
        async with asyncio.timeout(30):
            yield follower, handled
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_messages_from_before_the_start_are_skipped():
    async with Store() as store:
        await store.send("before")
        async with following(store) as (_, handled):
            await store.send("after")
            assert await handled.get() == "after"


async def test_a_log_that_was_removed_is_followed_from_its_new_beginning():
    """The numbers of the new log start again, below the last one that was read."""
    async with Store() as store, following(store) as (_, handled):
        for message_id in ("1", "2", "3"):
            await store.send(message_id)
            assert await handled.get() == message_id
        await store.delete(KEY)
        await store.send("4")
        assert await handled.get() == "4"


async def test_a_log_that_is_read_again_repeats_no_message_and_misses_none():
    async with Store() as store, following(store) as (follower, handled):
        await store.send("1")
        assert await handled.get() == "1"
        store.is_unavailable = True
        await store.send("2")
        follower.seek_to_start()
        store.is_unavailable = False
        await store.send("3")
        assert [await handled.get(), await handled.get()] == ["2", "3"]
