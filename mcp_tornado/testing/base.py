"""What both contracts need: the fixtures, and what stands between them and a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import pytest

from mcp_tornado.sessions.errors import StoreUnavailable
from mcp_tornado.sessions.model import ClientInfo, Session
from mcp_tornado.sessions.store import EventLog, SessionStore
from mcp_tornado.testing.clock import FakeClock

PATIENCE: float = 30.0
"""Seconds after which something that a test waits for counts as not happening; no test needs them."""

_TURNS: Final = 20

KEY: Final = "key-0001-and-so-on"
OTHER: Final = "key-0002-and-so-on"


class EventStore(SessionStore, EventLog):
    """A store that keeps events too, for annotations."""


MakeStore = Callable[..., SessionStore]
"""Returns a new store on the same data, not yet entered; keywords are store options."""
MakeSession = Callable[..., Session]
"""Returns a session; keywords are `key`, `lives` (seconds from now) and fields of `Session`."""
OpenStore = Callable[..., Awaitable[Any]]
"""Returns a new store on the same data, entered; keywords are store options. It is closed after the test."""


class Pair(NamedTuple):
    """Two stores on the same data; one and the same object where stores cannot share data."""

    one: Any
    two: Any


class StoreContract:
    """What `SessionStoreContract` and `EventLogContract` share; not to be subclassed by itself.

    A store author defines in the subclass:

    - the fixture `make_store`: returns a callable that takes store options as keywords (`events={"max_bytes": 5}`)
      and returns a new store, not yet entered. All stores of one test are on the same data, which is empty when the
      test begins, and go by the fixture `clock`;
    - for a store with a server, the fixture `outage`: an asynchronous context manager while which that server
      cannot be reached.
    """

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Stores run on asyncio: that is what Tornado runs on."""
        return "asyncio"

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The clock that every store of a test goes by; it starts at the real time and only moves forward."""
        return FakeClock()

    @pytest.fixture
    def outage(self) -> AbstractAsyncContextManager[object] | None:
        """`None` where there is no server that could fail; else to be defined by the store's author."""
        return None

    @pytest.fixture
    async def open_store(self, anyio_backend: str, make_store: MakeStore) -> AsyncGenerator[OpenStore]:
        """Enter a new store on the same data; it is closed after the test."""
        async with AsyncExitStack() as stack:

            async def open_one(**options: Any) -> SessionStore:
                return await stack.enter_async_context(make_store(**options))

            yield open_one

    @pytest.fixture
    async def store(self, open_store: OpenStore) -> Any:
        """An open store."""
        return await open_store()

    @pytest.fixture
    async def pair(self, store: Any, open_store: OpenStore) -> Pair:
        """Two open stores that see the same, as two processes have them."""
        return Pair(store, await open_store() if store.shared else store)

    @pytest.fixture
    def make_session(self, clock: FakeClock) -> MakeSession:
        """Make a session that lives for a number of seconds from now."""
        return partial(new_session, clock, key=KEY)


def new_session(clock: FakeClock, key: str = "key-0001", lives: float = 100.0, **fields: Any) -> Session:
    """Return a session that was made now.

    Args:
        clock: What tells the time.
        key: The session's key.
        lives: Seconds until it expires.
        fields: Fields of `Session` that shall be other than they are here.
    """
    now = clock()
    values: dict[str, Any] = {
        "key": key,
        "created_at": now,
        "last_seen_at": now,
        "expires_at": now + timedelta(seconds=lives),
        "client": ClientInfo(name="client"),
        "protocol_version": "2025-11-25",
    }
    return Session(**{**values, **fields})


async def settle(store: SessionStore) -> None:
    """Give tasks that use a store the time to come to where they wait.

    If one is slower, the test that asked still passes; it is only less likely to find a fault.
    """
    for _ in range(_TURNS):
        await store.ping()
        await asyncio.sleep(0)


async def back(store: SessionStore) -> None:
    """Wait until a store answers again after an outage."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await store.ping()
            except StoreUnavailable:
                await asyncio.sleep(0.05)


def seconds(count: float) -> timedelta:
    """Return a number of seconds as a timedelta."""
    return timedelta(seconds=count)
