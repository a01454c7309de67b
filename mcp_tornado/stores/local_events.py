"""Events in the memory of this process, for stores that keep no events."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import filterfalse
from types import TracebackType
from typing import Any, ClassVar, Self

from mcp_tornado.sessions.errors import SessionGone, StoreUnavailable
from mcp_tornado.sessions.ids import is_process_key, short_key
from mcp_tornado.sessions.model import Session, to_microseconds
from mcp_tornado.sessions.store import Clock, Event, EventBounds, EventLog, SessionStore
from mcp_tornado.stores.memory_events import MemoryEvents


class WithLocalEvents(SessionStore, EventLog):
    """A store that keeps sessions in another store, and events in the memory of this process.

    The sessions are as durable as in the other store. The events end with the process, and other processes do not see
    them.
    """

    shared: ClassVar[bool] = False

    def __init__(self, store: SessionStore, clock: Clock, bounds: EventBounds) -> None:
        self._store = store
        self._clock = clock
        self._events = MemoryEvents(clock, bounds)
        self._open = False
        self._dropped_count = 0
        """Number of calls of `_drop`, by which an append notices that a session has ended."""
        self._keys_to_check: list[str] = []

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        self._events.waiters.wake_all()
        await self._store.__aexit__(kind, error, traceback)

    async def create(self, session: Session) -> None:
        """See `SessionStore.create`."""
        await self._store.create(session)
        self._drop(session.key)

    async def get(self, key: str) -> Session | None:
        """See `SessionStore.get`."""
        return await self._store.get(key)

    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """See `SessionStore.touch`."""
        return await self._store.touch(key, last_seen_at, expires_at)

    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """See `SessionStore.update`."""
        return await self._store.update(key, changes, expected_revision)

    async def delete(self, key: str) -> bool:
        """See `SessionStore.delete`."""
        existed = await self._store.delete(key)
        self._drop(key)
        return existed

    async def sweep(self, now: datetime, limit: int) -> int:
        """See `SessionStore.sweep`; this also removes the events of at most `limit` sessions that ended elsewhere."""
        removed = await self._store.sweep(now, limit)
        self._events.leases.sweep(now=to_microseconds(self._clock()))
        await self._drop_events_of_ended_sessions(limit)
        return removed

    async def count(self, principal: str | None = None) -> int:
        """See `SessionStore.count`."""
        return await self._store.count(principal)

    async def page(self, after: str | None, limit: int) -> list[Session]:
        """See `SessionStore.page`."""
        return await self._store.page(after, limit)

    async def ping(self) -> None:
        """See `SessionStore.ping`."""
        await self._store.ping()

    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False) -> str:
        """See `EventLog.append`."""
        self._check_open()
        while True:
            dropped_count = self._dropped_count
            if not await self._takes_events(key):
                raise SessionGone(short_key(key))
            # A session that ended during the lookup must not get the event.
            if dropped_count == self._dropped_count:
                return self._events.append(key, stream, message, final)

    async def read(self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100) -> list[Event]:
        """See `EventLog.read`."""
        self._check_open()
        return self._events.read(key, after, stream, limit)

    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """See `EventLog.wait`."""
        self._check_open()

        async def is_new() -> bool:
            return not await self._takes_events(key) or self._events.has_newer(key, after)

        woken = await self._events.waiters.wait(key, timeout, is_new)
        self._check_open()
        return woken

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        self._check_open()
        return self._events.leases.claim(name, owner, ttl_seconds, now=to_microseconds(self._clock()))

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        self._check_open()
        self._events.leases.release(name, owner)

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("the store is closed")

    async def _takes_events(self, key: str) -> bool:
        if is_process_key(key):
            return True
        session = await self._store.get(key)
        return session is not None and session.expires_at > self._clock()

    def _drop(self, key: str) -> None:
        self._dropped_count += 1
        self._events.drop(key)

    async def _drop_events_of_ended_sessions(self, limit: int) -> None:
        # The store does not report every end of a session: a sweep, another process or a TTL of the store may end one.
        if not self._keys_to_check:
            self._keys_to_check = list(filterfalse(is_process_key, self._events.keys()))
        batch, self._keys_to_check = self._keys_to_check[:limit], self._keys_to_check[limit:]
        for key in batch:
            if await self._store.get(key) is None:
                self._drop(key)
