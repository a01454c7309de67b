"""What is written while the store is away: once, in the end."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado.kernel.appending import PatientLog
from mcp_tornado.kernel.mail import EVERYBODY, Mail
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.kernel.processes import PULSE, Processes
from mcp_tornado.kernel.routing import Routing
from mcp_tornado.sessions import ErrorCode, SessionError, system_clock
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

KEY = "@k"
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
AWAY = SessionError(ErrorCode.STORE_UNAVAILABLE)


class Wavering(MemoryStore):
    """A store whose appends fail, before or after they have taken effect."""

    def __init__(self) -> None:
        super().__init__(system_clock)
        self.failures: list[str] = []

    async def append(self, key, stream, message, *, final=False):
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "before":
            raise AWAY
        event_id = await super().append(key, stream, message, final=final)
        if failure == "after":
            raise AWAY
        return event_id


async def written(store: MemoryStore, key: str = KEY) -> int:
    return len(await store.read(key, None))


@pytest.mark.parametrize("failures", [["before"], ["after"], ["before", "after", "before"]])
@pytest.mark.parametrize("shared", [False, True])
async def test_an_event_is_in_the_log_once_whatever_an_attempt_came_to(failures, shared):
    async with Wavering() as store:
        log = PatientLog(store, KEY, "get", shared=shared)
        await log.append(CHANGED)
        store.failures = list(failures)
        event_id = await log.append(CHANGED)
        assert [event.id for event in await store.read(KEY, None)][1:] == [event_id]


async def test_an_equal_event_of_another_process_is_not_taken_for_ours():
    async with Wavering() as store:
        await store.append(KEY, "get", CHANGED)
        store.failures = ["before"]
        await PatientLog(store, KEY, "get", shared=True).append(CHANGED)
        assert await written(store) == 2


async def test_who_does_not_wait_is_told_at_once():
    async with Wavering() as store:
        store.failures = ["before"]
        with pytest.raises(SessionError):
            await PatientLog(store, KEY, "get").append(CHANGED, seconds=0)
        assert await written(store) == 0


class NoManager:
    async def drop_mailbox(self, key):
        pass


async def test_the_end_of_a_session_is_told_once_the_store_is_back():
    tasks: list[asyncio.Task[None]] = []

    def spawn(work):
        tasks.append(asyncio.ensure_future(work))
        return tasks[-1]

    async with Wavering() as store:
        ours, other = (Processes(store, NoManager(), PULSE, pytest.fail) for _ in range(2))
        await other.join()
        await ours.join()
        mail = Mail(store, ours)
        routing = Routing(mail, OutgoingRequests(ours.name), pytest.fail, pytest.fail, pytest.fail, spawn, spawn)
        store.failures = ["before", "before"]
        await routing.session_ended("s")
        await asyncio.gather(*tasks)
        (event,) = await store.read(EVERYBODY, None)
        assert event.message["session"] == "s"
