"""The store in the memory of this process: fast, and lost when the process ends."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from mcp_tornado.sessions.errors import DuplicateSession, RevisionConflict, SessionGone, StoreUnavailable
from mcp_tornado.sessions.ids import is_process_key, short_key
from mcp_tornado.sessions.model import Session, to_microseconds
from mcp_tornado.sessions.store import Clock, Event, EventBounds, EventLog, SessionStore
from mcp_tornado.stores.memory_events import MemoryEvents
from mcp_tornado.stores.options import check_options, event_bounds
from mcp_tornado.stores.record import Record

_MICROSECONDS_PER_SECOND: Final = 1_000_000
_BATCH_SIZE: Final = 50
"""Number of sessions between two yields to the event loop: freeing memory can be slow."""


def memory_store(url: str, options: Mapping[str, Any], clock: Clock) -> MemoryStore:
    """Return a store for `memory://`. This is the factory of the entry point `memory`.

    Raises:
        ValueError: The URL holds more than the scheme, or there is an option other than `events`.
    """
    if url != "memory://":
        raise ValueError("the URL of the memory store is memory:// and nothing more")
    check_options(options)
    return MemoryStore(clock, event_bounds(options))


@dataclass(slots=True)
class _Record(Record):
    """A stored session. Its payload is bytes: no caller can change it, and the garbage collector need not visit it."""

    indexed_second: int | None = None
    """The second under which the index holds the session; `None` if the session is in `_expired_keys`."""


class MemoryStore(SessionStore, EventLog):
    """Sessions and events in the memory of this process.

    Every change is made without yielding to the event loop, so it is atomic. An index by the second of expiry finds
    expired sessions. A touch does not move a session in the index: `count` and `sweep` move it when they find it under
    its earlier expiry.
    """

    shared: ClassVar[bool] = False

    def __init__(self, clock: Clock, bounds: EventBounds | None = None) -> None:
        self._clock = clock
        self._events = MemoryEvents(clock, bounds if bounds is not None else EventBounds())
        self._open = False
        self._records: dict[str, _Record] = {}
        self._keys_by_second: dict[int, set[str]] = {}
        self._indexed_seconds: list[int] = []
        self._expired_keys: deque[str] = deque()
        self._expired_count = 0
        self._expired_by_principal: Counter[str] = Counter()
        self._stored_by_principal: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        self._events.waiters.wake_all()

    async def create(self, session: Session) -> None:
        """See `SessionStore.create`."""
        self._check_open()
        if session.key in self._records:
            raise DuplicateSession(short_key(session.key))
        record = _Record.of(session)
        self._records[session.key] = record
        self._index(session.key, record)
        if session.principal is not None:
            self._stored_by_principal[session.principal] += 1

    async def get(self, key: str) -> Session | None:
        """See `SessionStore.get`."""
        self._check_open()
        record = self._records.get(key)
        return record.to_session() if record is not None else None

    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """See `SessionStore.touch`."""
        self._check_open()
        record = self._live(key)
        seen, expires = to_microseconds(last_seen_at), to_microseconds(expires_at)
        if record is None or seen < record.last_seen_at or expires < record.expires_at:
            return False
        record.last_seen_at, record.expires_at = seen, expires
        return True

    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """See `SessionStore.update`."""
        self._check_open()
        record = self._live(key)
        if record is None:
            return None
        if record.revision != expected_revision:
            raise RevisionConflict(f"expected revision {expected_revision}, found {record.revision}")
        changed = record.changed(changes)
        self._unindex(key, record)
        self._move_principal(record.principal, changed.principal)
        self._records[key] = changed
        self._index(key, changed)
        return changed.to_session()

    async def delete(self, key: str) -> bool:
        """See `SessionStore.delete`."""
        self._check_open()
        if is_process_key(key):
            self._events.drop(key)
        return self._remove(key)

    async def sweep(self, now: datetime, limit: int) -> int:
        """See `SessionStore.sweep`; this yields to the event loop after every `_BATCH_SIZE` sessions."""
        self._check_open()
        moment, present = to_microseconds(now), self._now()
        await self._collect_expired(present)
        if moment > present + _MICROSECONDS_PER_SECOND:
            return self._sweep_ahead(moment, limit)
        removed = 0
        for visited in range(1, len(self._expired_keys) + 1):
            if removed == limit or not self._expired_keys:
                break
            key = self._expired_keys.popleft()
            record = self._records.get(key)
            if record is None or record.indexed_second is not None:
                continue  # the session was deleted, and perhaps another one was created with its key
            if record.expires_at <= moment:
                removed += self._remove(key)
            else:
                self._expired_keys.append(key)
            if visited % _BATCH_SIZE == 0:
                await asyncio.sleep(0)  # yield to the event loop between two batches
        self._events.leases.sweep(now=present)
        return removed

    async def count(self, principal: str | None = None) -> int:
        """See `SessionStore.count`."""
        self._check_open()
        await self._collect_expired(self._now())
        if principal is None:
            return len(self._records) - self._expired_count
        return self._stored_by_principal[principal] - self._expired_by_principal[principal]

    async def page(self, after: str | None, limit: int) -> list[Session]:
        """See `SessionStore.page`."""
        self._check_open()
        now = self._now()
        start = after if after is not None else ""
        keys = (key for key, record in self._records.items() if key > start and record.expires_at > now)
        return [self._records[key].to_session() for key in heapq.nsmallest(limit, keys)]

    async def ping(self) -> None:
        """See `SessionStore.ping`."""
        self._check_open()

    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False) -> str:
        """See `EventLog.append`."""
        self._check_open()
        if not self._takes_events(key):
            raise SessionGone(short_key(key))
        return self._events.append(key, stream, message, final)

    async def read(self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100) -> list[Event]:
        """See `EventLog.read`."""
        self._check_open()
        return self._events.read(key, after, stream, limit)

    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """See `EventLog.wait`."""
        self._check_open()

        async def is_new() -> bool:
            return self._events.has_newer(key, after) or not self._takes_events(key)

        woken = await self._events.waiters.wait(key, timeout, is_new)
        self._check_open()
        return woken

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        self._check_open()
        return self._events.leases.claim(name, owner, ttl_seconds, now=self._now())

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        self._check_open()
        self._events.leases.release(name, owner)

    def _now(self) -> int:
        return to_microseconds(self._clock())

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("the memory store is closed")

    def _takes_events(self, key: str) -> bool:
        return is_process_key(key) or self._live(key) is not None

    def _live(self, key: str) -> _Record | None:
        record = self._records.get(key)
        if record is None or record.indexed_second is None or record.expires_at <= self._now():
            return None
        return record

    def _remove(self, key: str) -> bool:
        """Remove a session and its events. All removals call this method."""
        record = self._records.pop(key, None)
        if record is None:
            return False
        self._unindex(key, record)
        self._move_principal(record.principal, None)
        self._events.drop(key)
        return True

    def _sweep_ahead(self, moment: int, limit: int) -> int:
        """Sweep for a caller whose clock is far ahead of the clock of the store, which the index uses."""
        expired = [key for key, record in self._records.items() if record.expires_at <= moment]
        for key in expired[:limit]:
            self._remove(key)
        return len(expired[:limit])

    def _move_principal(self, before: str | None, after: str | None) -> None:
        if before is not None:
            _decrement(self._stored_by_principal, before)
        if after is not None:
            self._stored_by_principal[after] += 1

    def _index(self, key: str, record: _Record) -> None:
        second = record.indexed_second = record.expires_at // _MICROSECONDS_PER_SECOND
        keys = self._keys_by_second.get(second)
        if keys is None:
            keys = self._keys_by_second[second] = set()
            heapq.heappush(self._indexed_seconds, second)
        keys.add(key)

    def _unindex(self, key: str, record: _Record) -> None:
        if record.indexed_second is not None:
            self._keys_by_second[record.indexed_second].discard(key)
        else:
            # A sweep skips the key that stays in `_expired_keys`.
            self._expired_count -= 1
            if record.principal is not None:
                _decrement(self._expired_by_principal, record.principal)

    async def _collect_expired(self, moment: int) -> None:
        """Move the sessions that had expired at `moment` from the index to `_expired_keys`."""
        this_second = moment // _MICROSECONDS_PER_SECOND
        visited = 0
        while self._indexed_seconds and self._indexed_seconds[0] < this_second:
            second = self._indexed_seconds[0]
            keys = self._keys_by_second[second]
            while keys:
                self._reindex(keys.pop(), moment)
                visited += 1
                if visited % _BATCH_SIZE == 0:
                    break
            if not keys and self._indexed_seconds[0] == second:
                del self._keys_by_second[second]
                heapq.heappop(self._indexed_seconds)
                visited += 1
            if visited % _BATCH_SIZE == 0:
                await asyncio.sleep(0)  # yield to the event loop between two batches
        current = self._keys_by_second.get(this_second, set())
        for key in [key for key in current if self._records[key].expires_at <= moment]:
            current.discard(key)
            self._reindex(key, moment)

    def _reindex(self, key: str, moment: int) -> None:
        """Add a session that was taken out of the index to `_expired_keys`, or to the index under its later expiry."""
        record = self._records[key]
        if record.expires_at > moment:
            self._index(key, record)
            return
        record.indexed_second = None
        self._expired_keys.append(key)
        self._expired_count += 1
        if record.principal is not None:
            self._expired_by_principal[record.principal] += 1


def _decrement(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
