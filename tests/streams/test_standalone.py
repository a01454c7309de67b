"""Which process reads a session's standalone stream when messages of two processes cross."""

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


class OneReader:
    """Reads the standalone stream of every session until it is closed; takes the place of `OpenReaders`."""

    def __init__(self) -> None:
        self.reads = True
        self.closed = asyncio.Event()

    def reads_standalone(self, key):
        return self.reads

    def close_standalone(self, key, *, discard_pending=False):
        self.reads = False
        self.closed.set()


class Process:
    def __init__(self, store: MemoryStore, stack: AsyncExitStack) -> None:
        self.membership = Membership(store, NoManager(), DEFAULT_TIMES, pytest.fail)
        self.mailbox = Mailbox(store, self.membership)
        self.readers = OneReader()
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
async def two_processes() -> AsyncGenerator[tuple[Process, Process]]:
    async with MemoryStore(system_clock) as store, AsyncExitStack() as stack:
        both = (Process(store, stack), Process(store, stack))
        for process in both:
            await process.membership.join()
            await process.mailbox.start()
        yield both


async def test_the_later_of_two_takeovers_at_the_same_time_wins():
    async with two_processes() as (earlier, later), asyncio.timeout(30):
        await earlier.streams.acquire(KEY, take_over=True)
        await later.streams.acquire(KEY, take_over=True)  # before it has read the takeover of the earlier one
        await earlier.readers.closed.wait()
        assert await later.mailbox.ask("standalone.holder", {"session": KEY}, 0.1) is False
        # The later process reads the broadcasts in order: when it answers this one, it has read the earlier takeover.
        assert await earlier.mailbox.ask("standalone.holder", {"session": KEY}, 30)
        assert later.readers.reads


async def test_of_two_processes_that_read_one_stream_the_one_without_the_lease_stops():
    async with two_processes() as (holder, other), asyncio.timeout(30):
        await holder.streams.renew(KEY)
        await other.streams.renew(KEY)
        assert (holder.readers.reads, other.readers.reads) == (True, False)
