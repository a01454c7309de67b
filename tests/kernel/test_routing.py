"""Routing between two processes that share a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from mcp_tornado.cluster.mailbox import BROADCAST_LOG, Mailbox
from mcp_tornado.cluster.membership import DEFAULT_TIMES, Membership
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.kernel.routing import Routing
from mcp_tornado.sessions import ErrorCode, SessionError, system_clock
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.streams.tasks import BackgroundTasks

pytestmark = pytest.mark.anyio

SESSION_KEY = "a session"


class NoManager:
    async def drop_mailbox(self, key):
        pass


class UnreliableStore(MemoryStore):
    """A store that is unavailable for some calls of `append`."""

    def __init__(self) -> None:
        super().__init__(system_clock)
        self.failure_count = 0
        """How many of the next appends fail."""

    async def append(self, key, stream, message, *, final=False):
        if self.failure_count:
            self.failure_count -= 1
            raise SessionError(ErrorCode.STORE_UNAVAILABLE)
        return await super().append(key, stream, message, final=final)


class AwaitableTasks(BackgroundTasks):
    """Background tasks that a test can await."""

    def __init__(self) -> None:
        super().__init__()
        self.detached: list[asyncio.Task[None]] = []

    def spawn_detached(self, work):
        task = super().spawn_detached(work)
        self.detached.append(task)
        return task


class Process:
    """A process that collects what the messages of other processes have ended or dropped in it."""

    def __init__(self, store: MemoryStore) -> None:
        self.membership = Membership(store, NoManager(), DEFAULT_TIMES, pytest.fail)
        self.mailbox = Mailbox(store, self.membership)
        self.tasks = AwaitableTasks()
        self.ended_sessions: asyncio.Queue[str] = asyncio.Queue()
        self.dropped_connections: asyncio.Queue[str] = asyncio.Queue()
        self.running_requests: set[str] = set()
        """The digests of the request ids."""
        self.routing = Routing(
            self.mailbox,
            OutgoingRequests(self.membership.name),
            self.tasks,
            cancel=lambda key, digest: key == SESSION_KEY and digest in self.running_requests,
            end_session=self.ended_sessions.put_nowait,
            drop_connection=self.dropped_connections.put_nowait,
        )


@asynccontextmanager
async def two_processes() -> AsyncGenerator[tuple[UnreliableStore, Process, Process]]:
    async with UnreliableStore() as store, AsyncExitStack() as stack, asyncio.timeout(30):
        first, second = Process(store), Process(store)
        for process in (first, second):
            await process.membership.join()
            await process.mailbox.start()
            stack.push_async_callback(process.mailbox.stop)
        yield store, first, second


@pytest.mark.parametrize("failure_count", [0, 2])
async def test_end_of_a_session_reaches_other_processes_once_the_store_is_available(failure_count):
    async with two_processes() as (store, first, second):
        store.failure_count = failure_count
        await first.routing.session_ended(SESSION_KEY)
        assert await second.ended_sessions.get() == SESSION_KEY
        await asyncio.gather(*first.tasks.detached)
        assert len(await store.read(BROADCAST_LOG, None)) == 1


async def test_renegotiation_reaches_other_processes():
    async with two_processes() as (_, first, second):
        await first.routing.session_renegotiated(SESSION_KEY)
        assert await second.dropped_connections.get() == SESSION_KEY


@pytest.mark.parametrize("request_id", [7, "seven", "x" * 2_000_000])
async def test_cancellation_of_a_request_with_a_long_id_is_short(request_id):
    """A long message would evict messages from the broadcast log that other processes have not read yet."""
    async with two_processes() as (store, first, _):
        await first.routing.cancel(SESSION_KEY, request_id)
        (event,) = await store.read(BROADCAST_LOG, None)
        assert len(str(event.message)) < 1000
