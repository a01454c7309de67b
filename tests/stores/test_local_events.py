"""A store without events, combined with events in memory, passes the contract."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado.sessions import EventBounds, SessionGone, SessionStore
from mcp_tornado.stores import event_bounds
from mcp_tornado.stores.local_events import WithLocalEvents
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.testing import EventLogContract, SessionStoreContract
from mcp_tornado.testing.base import run_turns


def _delegated(operation):
    async def call(self, *arguments):
        result = await getattr(self.inner, operation)(*arguments)
        await asyncio.sleep(0)  # like a network, this lets other tasks run before the result is returned
        return self if operation == "__aenter__" else result

    return call


class WithoutEvents(SessionStore):
    """A memory store without its events."""

    shared = False

    def __init__(self, inner):
        self.inner = inner

    for name in SessionStore.__abstractmethods__:
        locals()[name] = _delegated(name)


@pytest.fixture
def make_local(clock):
    def make(**options):
        return WithLocalEvents(WithoutEvents(MemoryStore(clock)), clock, event_bounds(options))

    return make


class TestLocalEventsSessions(SessionStoreContract):
    @pytest.fixture
    def make_store(self, make_local):
        return make_local


class TestLocalEventsEvents(EventLogContract):
    @pytest.fixture
    def make_store(self, make_local):
        return make_local


@pytest.mark.anyio
async def test_a_sweep_removes_the_events_of_sessions_that_ended_elsewhere(clock, make_session):
    inner = MemoryStore(clock)
    async with WithLocalEvents(WithoutEvents(inner), clock, EventBounds()) as store:
        for number in range(5):
            await store.create(make_session(key=f"key-{number}"))
            await store.append(f"key-{number}", "get", {"n": number})
        await store.append("@p", "mailbox", {"n": 0})
        for number in range(4):
            await inner.delete(f"key-{number}")
        for _ in range(3):
            await store.sweep(clock(), 2)
        assert sorted(store._events.keys()) == ["@p", "key-4"]


@pytest.mark.anyio
async def test_an_append_during_a_deletion_leaves_no_event(clock, make_session):
    async with WithLocalEvents(WithoutEvents(MemoryStore(clock)), clock, EventBounds()) as store:
        for turns in range(8):
            await store.create(make_session())
            deleting = asyncio.ensure_future(store.delete("key-0001"))
            await run_turns(turns)
            appended = await asyncio.gather(store.append("key-0001", "get", {}), return_exceptions=True)
            await deleting
            assert isinstance(appended[0], str | SessionGone)
            assert list(store._events.keys()) == []
