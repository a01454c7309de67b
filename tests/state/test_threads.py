"""State in plain functions, which run in threads."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from mcp_tornado import state
from mcp_tornado.hosting.context import session_context, sessionless_context
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import SessionManager, SessionRules
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.testing import FakeClock
from tests.state.helpers import INBOUND, count, new_session

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("run", [asyncio.to_thread, anyio.to_thread.run_sync])
async def test_a_plain_function_in_a_thread_reads_and_changes(manager, session, run):
    def tool():
        s = state.current()
        assert s.update_sync(count) == {"n": 1}
        assert s.read_sync() == s.data == state.current().data == {"n": 1}

    with session_context(manager, session):
        await run(tool)
        assert await state.current().read() == {"n": 1}


async def test_a_plain_function_in_a_thread_creates_and_opens_a_state(manager):
    def tool():
        created = state.create_sync()
        created.update_sync(count)
        return state.open_sync(created.handle).data

    with sessionless_context(manager, INBOUND):
        assert await asyncio.to_thread(tool) == {"n": 1}


async def test_concurrent_updates_of_many_threads_are_all_applied(manager, session):
    with session_context(manager, session):
        s = state.current()
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(asyncio.to_thread(s.update_sync, count))
        assert await s.read() == {"n": 50}


async def test_an_exception_of_the_function_reaches_the_thread(manager, session):
    def fail(data):
        raise LookupError("failed")

    with session_context(manager, session), pytest.raises(LookupError, match="failed"):
        await asyncio.to_thread(state.current().update_sync, fail)


async def test_a_thread_without_the_request_context_can_use_a_state_object(manager, session):
    results = []
    with session_context(manager, session):
        s = state.current()

    def run():
        with pytest.raises(state.NoSession):
            state.current()
        results.append(s.update_sync(count))

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join, 30)
    assert results == [{"n": 1}]


async def test_the_sync_functions_raise_in_the_thread_of_the_event_loop(manager, session):
    with session_context(manager, session):
        s = state.current()
        handle = (await state.create()).handle
        for attempt in (lambda: s.update_sync(count), s.read_sync, state.create_sync, lambda: state.open_sync(handle)):
            with pytest.raises(RuntimeError, match="await"):
                attempt()
        with pytest.raises(RuntimeError, match="await"):
            await s.update(lambda data: s.update_sync(count))
        assert await s.read() == {}
        assert await manager.count() == 2


async def state_of_an_event_loop_that_ends():
    clock = FakeClock()
    async with MemoryStore(clock) as store:
        manager = SessionManager(store, SessionRules(), clock=clock, metrics=Metrics("1"))
        _, session = await new_session(manager)
        with session_context(manager, session):
            return state.current()


def test_a_sync_function_raises_after_the_event_loop_was_closed():
    s = asyncio.run(state_of_an_event_loop_that_ends())
    with pytest.raises(RuntimeError, match="closed"):
        s.update_sync(count)


def test_a_sync_function_raises_if_the_event_loop_is_closed_before_it_runs_the_call(monkeypatch):
    monkeypatch.setattr(state, "_LOOP_CHECK_SECONDS", 0.01)
    scheduled, raised = threading.Event(), []
    loop = asyncio.new_event_loop()
    s = loop.run_until_complete(state_of_an_event_loop_that_ends())
    call_soon = loop.call_soon_threadsafe

    def call_soon_and_note(*arguments, **named):
        call_soon(*arguments, **named)
        scheduled.set()

    def run():
        try:
            s.update_sync(count)
        except RuntimeError as error:
            raised.append(str(error))

    monkeypatch.setattr(loop, "call_soon_threadsafe", call_soon_and_note)
    thread = threading.Thread(target=run)
    thread.start()
    assert scheduled.wait(30), "the thread has not scheduled its call"
    loop.close()
    thread.join(30)
    assert raised == ["the event loop was closed before the call was done"]
