"""Events for a store that keeps none: in the memory of this process."""

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
    """A store of sessions, with their events in the memory of this process.

    The sessions are as durable as the store behind it makes them; the events end with the process, and another
    process does not see them.
    """

    shared: ClassVar[bool] = False

    def __init__(self, store: SessionStore, clock: Clock, bounds: EventBounds) -> None:
        self._store = store
        self._clock = clock
        self._events = MemoryEvents(clock, bounds)
        self._open = False
        self._ended = 0
        """Counts the sessions that ended, for whoever looked one up while it did."""
        self._to_look_up: list[str] = []

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
        """See `SessionStore.sweep`; the events of at most `limit` sessions that are gone go along."""
        removed = await self._store.sweep(now, limit)
        self._events.leases.sweep(now=to_microseconds(self._clock()))
        await self._drop_gone(limit)
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
            ended = self._ended
            if not await self._takes_events(key):
                raise SessionGone(short_key(key))
            if ended == self._ended:
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
        self._ended += 1
        self._events.drop(key)

    async def _drop_gone(self, limit: int) -> None:
        # Sessions also end where we do not see it: swept here or by another process, or by a TTL of the store's.
        if not self._to_look_up:
            self._to_look_up = list(filterfalse(is_process_key, self._events.keys()))
        batch, self._to_look_up = self._to_look_up[:limit], self._to_look_up[limit:]
        for key in batch:
            if await self._store.get(key) is None:
                self._drop(key)
