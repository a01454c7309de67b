"""Processes that seem dead, and what becomes of their mail."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from mcp.shared.exceptions import MCPError

from mcp_tornado.kernel.mail import Mail
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.kernel.processes import Processes, Pulse, heartbeat_of, mailbox_of
from mcp_tornado.sessions import system_clock
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

QUICK = Pulse(beat=0.01, lease=0.1, confirm=0.05, look=0.01, bury=3600, census=0.02)


class Manager:
    """Removes mailboxes, as the manager of sessions does."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def drop_mailbox(self, key):
        await self._store.delete(key)


@asynccontextmanager
async def living(processes: Processes):
    task = asyncio.create_task(processes.live())
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


async def silent(processes: Processes, store: MemoryStore, pulse: Pulse = QUICK) -> Processes:
    """Return a process that has joined, and does nothing more."""
    made = Processes(store, Manager(store), pulse, pytest.fail)
    await made.join()
    return made


async def is_missed(processes: Processes, other: Processes) -> bool:
    return other.name not in await processes.others()


@pytest.mark.parametrize(("bury", "kept"), [(3600, True), (0, False)])
async def test_mail_for_a_process_that_seems_dead_is_kept_for_a_while(bury, kept):
    async with MemoryStore(system_clock) as store:
        ours = Processes(store, Manager(store), replace(QUICK, bury=bury), pytest.fail)
        await ours.join()
        async with living(ours):
            stopped = await silent(ours, store)
            await until(lambda: is_missed(ours, stopped))
            # When somebody who stopped later is missed too, a census has come by.
            later = await silent(ours, store)
            await until(lambda: is_missed(ours, later))
            mail = Mail(store, ours)
            await mail.deliver(stopped.name, "a kind", {})
            assert bool(await store.read(mailbox_of(stopped.name), None)) is kept
            await mail.stop()


@pytest.mark.parametrize(("bury", "lost"), [(3600, False), (0, True)])
async def test_a_process_that_was_silent_learns_whether_its_mail_may_be_lost(bury, lost):
    told: list[bool] = []
    async with MemoryStore(system_clock) as store:
        process = Processes(store, Manager(store), replace(QUICK, bury=bury), told.append)
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
