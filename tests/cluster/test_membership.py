"""Processes that seem dead: when their mailboxes are removed, and what they learn when they come back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from mcp.shared.exceptions import MCPError

from mcp_tornado.cluster.heartbeat import heartbeat_lease_name
from mcp_tornado.cluster.mailbox import Mailbox
from mcp_tornado.cluster.membership import (
    REGISTER,
    Membership,
    MembershipTimes,
    mailbox_key,
)
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.sessions import system_clock
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

SHORT_TIMES = MembershipTimes(
    heartbeat_interval=0.01,
    heartbeat_lease=0.3,
    confirmation=0.05,
    probe_interval=0.01,
    mailbox_retention=3600,
    scan_interval=0.02,
)


class Manager:
    """Removes mailboxes, as the session manager does."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def drop_mailbox(self, key):
        await self._store.delete(key)


@asynccontextmanager
async def running(membership: Membership):
    """Renew the heartbeat of a process, and let it scan for dead processes."""
    task = asyncio.create_task(membership.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def join_and_stop(store: MemoryStore) -> Membership:
    """Return a process that has joined, and then does nothing more."""
    stopped = Membership(store, Manager(store), SHORT_TIMES, pytest.fail)
    await stopped.join()
    return stopped


async def wait_until_departed(store: MemoryStore, process: Membership) -> None:
    """Wait until the register says that a process has ended."""
    after = None
    try:
        async with asyncio.timeout(30):
            while True:
                for event in await store.read(REGISTER, after):
                    after = event.id
                    if event.message["process"] == process.name and event.message["gone"]:
                        return
                await store.wait(REGISTER, after, 30)
    except TimeoutError:
        pytest.fail(f"no process has written into the register that {process.name} has ended")


@pytest.mark.parametrize(("retention", "is_kept"), [(3600, True), (0, False)])
async def test_mailbox_of_a_process_that_seems_dead_is_kept_for_the_retention_time(retention, is_kept):
    async with MemoryStore(system_clock) as store:
        ours = Membership(store, Manager(store), replace(SHORT_TIMES, mailbox_retention=retention), pytest.fail)
        await ours.join()
        async with running(ours):
            stopped = await join_and_stop(store)
            await wait_until_departed(store, stopped)
            # The death of a process that stopped later is found by a later scan: the scan before it is complete.
            stopped_later = await join_and_stop(store)
            await wait_until_departed(store, stopped_later)
            assert not {stopped.name, stopped_later.name} & await ours.others()
            mailbox = Mailbox(store, ours)
            await mailbox.deliver(stopped.name, "a kind", {})
            assert bool(await store.read(mailbox_key(stopped.name), None)) is is_kept
            await mailbox.stop()


@pytest.mark.parametrize(("retention", "may_be_removed"), [(3600, False), (0, True)])
async def test_a_process_that_was_silent_learns_whether_its_mailbox_may_have_been_removed(retention, may_be_removed):
    recoveries: asyncio.Queue[bool] = asyncio.Queue()
    async with MemoryStore(system_clock) as store:
        times = replace(SHORT_TIMES, mailbox_retention=retention)
        process = Membership(store, Manager(store), times, recoveries.put_nowait)
        await process.join()
        await asyncio.sleep(2 * times.heartbeat_lease)
        assert await store.claim(heartbeat_lease_name(process.name), "another process", 0), "the heartbeat has expired"
        async with running(process), asyncio.timeout(30):
            assert await recoveries.get() is may_be_removed


async def test_a_request_whose_reply_may_be_lost_ends_with_an_error():
    outgoing = OutgoingRequests("s1")
    is_sent = asyncio.Event()

    async def send(message):
        is_sent.set()

    request = asyncio.create_task(outgoing.send("a session", send, "elicitation/create", None, None))
    async with asyncio.timeout(30):
        await is_sent.wait()
    outgoing.fail_all()
    with pytest.raises(MCPError, match="reply was lost"):
        async with asyncio.timeout(30):
            await request
