"""What one process tells the others."""

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

KEY = "a session"


class NoManager:
    async def drop_mailbox(self, key):
        pass


class Away(MemoryStore):
    """A store that is away for so many appends."""

    def __init__(self) -> None:
        super().__init__(system_clock)
        self.failures = 0

    async def append(self, key, stream, message, *, final=False):
        if self.failures:
            self.failures -= 1
            raise SessionError(ErrorCode.STORE_UNAVAILABLE)
        return await super().append(key, stream, message, final=final)


class Tasks(BackgroundTasks):
    """Background tasks that a test can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.detached: list[asyncio.Task[None]] = []

    def spawn_detached(self, work):
        task = super().spawn_detached(work)
        self.detached.append(task)
        return task


class Process:
    """What other processes' mail did here."""

    def __init__(self, store: MemoryStore) -> None:
        self.membership = Membership(store, NoManager(), DEFAULT_TIMES, pytest.fail)
        self.mailbox = Mailbox(store, self.membership)
        self.tasks = Tasks()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.disconnected: asyncio.Queue[str] = asyncio.Queue()
        self.runs: set[str] = set()
        self.routing = Routing(
            self.mailbox,
            OutgoingRequests(self.membership.name),
            self.tasks,
            cancel=lambda key, digest: key == KEY and digest in self.runs,
            end_session=self.ended.put_nowait,
            drop_connection=self.disconnected.put_nowait,
        )


@asynccontextmanager
async def two() -> AsyncGenerator[tuple[Away, Process, Process]]:
    async with Away() as store, AsyncExitStack() as stack, asyncio.timeout(30):
        ours, other = Process(store), Process(store)
        for process in (ours, other):
            await process.membership.join()
            await process.mailbox.start()
            stack.push_async_callback(process.mailbox.stop)
        yield store, ours, other


@pytest.mark.parametrize("failures", [0, 2])
async def test_the_end_of_a_session_is_told_even_if_the_store_is_away_at_first(failures):
    async with two() as (store, ours, other):
        store.failures = failures
        await ours.routing.session_ended(KEY)
        assert await other.ended.get() == KEY
        await asyncio.gather(*ours.tasks.detached)
        assert len(await store.read(BROADCAST_LOG, None)) == 1


async def test_a_new_handshake_is_told():
    async with two() as (_, ours, other):
        await ours.routing.session_renegotiated(KEY)
        assert await other.disconnected.get() == KEY


@pytest.mark.parametrize("request_id", [7, "seven", "x" * 2_000_000])
async def test_an_id_takes_no_more_room_than_another_where_all_read(request_id):
    """What is long would push out what others have not read yet."""
    async with two() as (store, ours, _):
        await ours.routing.cancel(KEY, request_id)
        (event,) = await store.read(BROADCAST_LOG, None)
        assert len(str(event.message)) < 1000
