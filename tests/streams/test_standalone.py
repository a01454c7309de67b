"""Who holds a session's standalone stream, where messages between processes cross."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from mcp_tornado.cluster.mailbox import Mailbox
from mcp_tornado.cluster.membership import DEFAULT_TIMES, Membership
from mcp_tornado.sessions import system_clock
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.streams.standalone import StandaloneStreams

pytestmark = pytest.mark.anyio

KEY = "a session"


class NoManager:
    async def drop_mailbox(self, key):
        pass


class StreamReaders:
    """Reads the stream until it is told to close."""

    def __init__(self) -> None:
        self.reads = True
        self.closed = asyncio.Event()

    def holds_standalone(self, key):
        return self.reads

    def close_standalone(self, key, *, at_once=False):
        self.reads = False
        self.closed.set()


class Process:
    def __init__(self, store: MemoryStore, stack: AsyncExitStack) -> None:
        self.membership = Membership(store, NoManager(), DEFAULT_TIMES, pytest.fail)
        self.mailbox = Mailbox(store, self.membership)
        self.readers = StreamReaders()
        self.tasks: list[asyncio.Task[None]] = []
        self.streams = StandaloneStreams(store, self.membership, self.mailbox, self.readers, self._spawn)
        stack.push_async_callback(self._stop)

    def _spawn(self, work):
        self.tasks.append(asyncio.ensure_future(work))

    async def _stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.mailbox.stop()


@asynccontextmanager
async def two() -> AsyncGenerator[tuple[Process, Process]]:
    async with MemoryStore(system_clock) as store, AsyncExitStack() as stack:
        both = (Process(store, stack), Process(store, stack))
        for process in both:
            await process.membership.join()
            await process.mailbox.start()
        yield both


async def test_of_two_that_take_a_stream_over_at_once_the_last_one_keeps_it():
    async with two() as (first, last), asyncio.timeout(30):
        await first.streams.take(KEY, over=True)
        await last.streams.take(KEY, over=True)  # before it has heard of the first
        await first.readers.closed.wait()
        # What the last one has not heard by now, it has heard once it is answered.
        assert await last.mailbox.ask("standalone.holder", {"session": KEY}, 0.1) is False
        assert await first.mailbox.ask("standalone.holder", {"session": KEY}, 30)
        assert last.readers.reads


async def test_of_two_that_read_one_stream_the_one_without_the_lease_stops():
    async with two() as (holder, other), asyncio.timeout(30):
        await holder.streams.renew(KEY)
        await other.streams.renew(KEY)
        assert (holder.readers.reads, other.readers.reads) == (True, False)
