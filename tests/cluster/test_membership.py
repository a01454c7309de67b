"""Processes that seem dead, and what becomes of their mail."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from mcp.shared.exceptions import MCPError

from mcp_tornado.cluster.mailbox import Mailbox
from mcp_tornado.cluster.membership import Membership, MembershipTimes, heartbeat_of, mailbox_of
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.sessions import system_clock
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

QUICK = MembershipTimes(
    heartbeat_interval=0.01,
    heartbeat_lease=0.1,
    confirmation=0.05,
    probe_interval=0.01,
    mailbox_retention=3600,
    scan_interval=0.02,
)


class Manager:
    """Removes mailboxes, as the manager of sessions does."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def drop_mailbox(self, key):
        await self._store.delete(key)


@asynccontextmanager
async def living(membership: Membership):
    task = asyncio.create_task(membership.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition):
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0)


async def silent(membership: Membership, store: MemoryStore, times: MembershipTimes = QUICK) -> Membership:
    """Return a process that has joined, and does nothing more."""
    made = Membership(store, Manager(store), times, pytest.fail)
    await made.join()
    return made


async def is_missed(membership: Membership, other: Membership) -> bool:
    return other.name not in await membership.others()


@pytest.mark.parametrize(("bury", "kept"), [(3600, True), (0, False)])
async def test_mail_for_a_process_that_seems_dead_is_kept_for_a_while(bury, kept):
    async with MemoryStore(system_clock) as store:
        ours = Membership(store, Manager(store), replace(QUICK, mailbox_retention=bury), pytest.fail)
        await ours.join()
        async with living(ours):
            stopped = await silent(ours, store)
            await until(lambda: is_missed(ours, stopped))
            # When somebody who stopped later is missed too, a census has come by.
            later = await silent(ours, store)
            await until(lambda: is_missed(ours, later))
            mailbox = Mailbox(store, ours)
            await mailbox.deliver(stopped.name, "a kind", {})
            assert bool(await store.read(mailbox_of(stopped.name), None)) is kept
            await mailbox.stop()


@pytest.mark.parametrize(("bury", "lost"), [(3600, False), (0, True)])
async def test_a_process_that_was_silent_learns_whether_its_mail_may_be_lost(bury, lost):
    told: list[bool] = []
    async with MemoryStore(system_clock) as store:
        process = Membership(store, Manager(store), replace(QUICK, mailbox_retention=bury), told.append)
        await process.join()

        async def heart_has_stopped():
            return await store.claim(heartbeat_of(process.name), "somebody else", 0)

        await until(heart_has_stopped)
        async with living(process):

            async def has_been_told():
                return told

            await until(has_been_told)
    assert told[0] is lost


async def test_a_question_whose_answer_may_be_lost_does_not_wait_for_ever():
    outgoing = OutgoingRequests("s1")
    asked = asyncio.Event()

    async def send(message):
        asked.set()

    question = asyncio.create_task(outgoing.send("a session", send, "elicitation/create", None, None))
    await asked.wait()
    outgoing.give_up()
    with pytest.raises(MCPError, match="reply was lost"):
        async with asyncio.timeout(30):
            await question
