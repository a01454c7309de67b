"""Fixtures and helpers of both contracts: sessions for tests, and waiting with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import pytest

from mcp_tornado.sessions.errors import StoreUnavailable
from mcp_tornado.sessions.model import ClientInfo, Session
from mcp_tornado.sessions.store import EventLog, SessionStore
from mcp_tornado.testing.clock import FakeClock

DEADLINE_SECONDS: float = 30.0
"""Time after which an event that a test waits for counts as missing. A test that passes does not need it."""

_POLL_INTERVAL_SECONDS: Final = 0.05
_PINGS: Final = 10
_PING_INTERVAL_SECONDS: Final = 0.001

KEY: Final = "key-0001-and-so-on"
OTHER: Final = "key-0002-and-so-on"

NO_OUTAGE: Final = "the store has no server that can be out of reach; if yours has one, define the fixture `outage`"
"""The reason why tests of outages are skipped."""


class EventStore(SessionStore, EventLog):
    """A store that also keeps events, for annotations."""


MakeStore = Callable[..., SessionStore]
"""Returns a new store on the same data, not yet entered; keywords are store options."""
MakeSession = Callable[..., Session]
"""Returns a session; keywords are `key`, `lives` (seconds from now) and fields of `Session`."""
OpenStore = Callable[..., Awaitable[Any]]
"""Returns a new store on the same data, entered; keywords are store options. It is closed after the test."""


class Pair(NamedTuple):
    """Two stores on the same data; the same object twice if stores cannot share data."""

    one: Any
    two: Any


class StoreContract:
    """The fixtures of `SessionStoreContract` and `EventLogContract`; do not subclass it directly.

    The author of a store defines in the subclass:

    - the fixture `make_store`: returns a callable that takes store options as keywords (`events={"max_bytes": 5}`)
      and returns a new store, not yet entered. All stores of one test use the same data, which is empty when the test
      begins, and the fixture `clock`;
    - for a store with a server, the fixture `outage`: an asynchronous context manager. While it is entered, the server
      cannot be reached.
    """

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop of the tests: asyncio, which Tornado uses."""
        return "asyncio"

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The clock of every store of a test. It starts at the real time and only moves forward."""
        return FakeClock()

    @pytest.fixture
    def outage(self) -> AbstractAsyncContextManager[object] | None:
        """`None` if no server can fail; otherwise the author of the store defines this fixture."""
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
        """Two open stores on the same data, like those of two processes."""
        return Pair(store, await open_store() if store.shared else store)

    @pytest.fixture
    def make_session(self, clock: FakeClock) -> MakeSession:
        """Create a session that lives for a number of seconds from now."""
        return partial(new_session, clock, key=KEY)


def new_session(clock: FakeClock, key: str = "key-0001", lives: float = 100.0, **fields: Any) -> Session:
    """Return a session that was created now.

    Args:
        clock: The clock that tells the time.
        key: The key of the session.
        lives: Seconds until the session expires.
        fields: Fields of `Session` with values other than the defaults here.
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


async def keys_of(store: SessionStore, after: str | None = None, limit: int = 100) -> list[str]:
    """Return the keys of a page of sessions."""
    return [session.key for session in await store.page(after, limit)]


def seconds(count: float) -> timedelta:
    """Return a number of seconds as a timedelta."""
    return timedelta(seconds=count)


@asynccontextmanager
async def deadline(failure: str) -> AsyncGenerator[None]:
    """Fail the test with a message if the body takes longer than `DEADLINE_SECONDS`."""
    timeout = asyncio.timeout(DEADLINE_SECONDS)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if timeout.expired():
            raise AssertionError(f"after {DEADLINE_SECONDS} seconds: {failure}") from None
        raise


async def let_tasks_start(store: SessionStore) -> None:
    """Give tasks that use a store the time to reach the point at which they wait.

    A test cannot observe that point in a third-party store. If a task needs longer, the test still passes, but is less
    likely to find a fault.
    """
    for _ in range(_PINGS):
        await store.ping()
        await asyncio.sleep(_PING_INTERVAL_SECONDS)


async def run_turns(count: int) -> None:
    """Let the event loop run for a number of turns, so that a test can go through all interleavings of two tasks."""
    for _ in range(count):
        await asyncio.sleep(0)


async def wait_until_available(operation: Callable[[], Awaitable[object]]) -> None:
    """Repeat an operation of a store, such as `ping`, until the store is available again after an outage."""
    async with deadline("the store is still unavailable although the outage has ended"):
        while True:
            try:
                await operation()
            except StoreUnavailable:
                await asyncio.sleep(_POLL_INTERVAL_SECONDS)
            else:
                return
