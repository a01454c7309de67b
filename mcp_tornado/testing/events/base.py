"""Fixtures and helpers for the tests of event logs: stores with live sessions, filling and following a log."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from mcp_tornado.sessions.store import Event
from mcp_tornado.testing import base
from mcp_tornado.testing.base import KEY, OTHER, EventStore, MakeSession, OpenStore, Pair, StoreContract

VERY_LONG_SECONDS: Final = 1_000_000.0
"""A timeout or a life of a session that no test reaches."""


async def numbers(log: EventStore, after: str | None = None, *, key: str = KEY, **options: Any) -> list[Any]:
    """Read events, and return the numbers that `fill` wrote into them."""
    return [event.message["n"] for event in await log.read(key, after, **options) if event.message is not None]


async def fill(log: EventStore, count: int, *, key: str = KEY, stream: str = "get") -> list[str]:
    """Append events with the numbers from 1 to `count`, and return their ids."""
    return [await log.append(key, stream, {"n": number}) for number in range(1, count + 1)]


async def follow(log: EventStore, key: str, count: int, *, limit: int) -> list[Event]:
    """Follow a log as readers do (read, wait, read again) until `count` events were read, and return them.

    The caller sets the deadline.
    """
    events: list[Event] = []
    while len(events) < count:
        after = events[-1].id if events else None
        new = await log.read(key, after, limit=limit)
        if not new:
            await log.wait(key, after, base.DEADLINE_SECONDS)
        events += new
        # Yield to the event loop: neither `read` nor `wait` has to, and the deadline must be able to end this loop.
        await asyncio.sleep(0)
    return events


class EventLogFixtures(StoreContract):
    """Stores with live sessions."""

    @pytest.fixture
    async def log(self, store: EventStore, make_session: MakeSession) -> EventStore:
        """A store with two live sessions."""
        await store.create(make_session(key=KEY))
        await store.create(make_session(key=OTHER))
        return store

    @pytest.fixture
    async def logs(self, log: EventStore, pair: Pair) -> Pair:
        """Two stores on the same data, with two live sessions."""
        return pair

    @pytest.fixture
    def bounded(self, open_store: OpenStore, make_session: MakeSession) -> OpenStore:
        """Open a store with the given bounds of events and one live session."""

        async def open_bounded(key: str = KEY, **bounds: Any) -> Any:
            store = await open_store(events=bounds)
            await store.create(make_session(key=key, lives=VERY_LONG_SECONDS))
            return store

        return open_bounded
