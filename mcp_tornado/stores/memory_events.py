"""Events and leases in the memory of this process."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_tornado.sessions.encoding import encode_stored
from mcp_tornado.sessions.errors import StreamEnded
from mcp_tornado.sessions.model import to_microseconds
from mcp_tornado.sessions.store import Clock, Event, EventBounds, EventId
from mcp_tornado.stores.record import stored_event
from mcp_tornado.stores.waiters import Waiters

_SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class _StoredEvent:
    number: int
    stream: str
    data: bytes
    """The message as JSON."""
    at: int
    """When it was appended, in microseconds since the epoch."""
    final: bool


@dataclass(slots=True)
class _Log:
    """The events of one session, or of one process."""

    newest: int = 0
    size: int = 0
    events: deque[_StoredEvent] = field(default_factory=deque[_StoredEvent])
    ended: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])
    """The streams that had their final event, oldest first."""


class MemoryEvents:
    """What an `EventLog` keeps, without knowing which sessions live: whoever has it calls `drop` when one ends.

    Nothing in it gives way to the event loop, so everything is atomic.
    """

    def __init__(self, clock: Clock, bounds: EventBounds) -> None:
        self.waiters = Waiters()
        """Who waits for an event, to be woken when a session ends."""
        self._clock = clock
        self._bounds = bounds
        self._logs: dict[str, _Log] = {}
        self._leases: dict[str, tuple[str, int]] = {}

    def keys(self) -> Iterable[str]:
        """Return the keys that have events."""
        return self._logs.keys()

    def append(self, key: str, stream: str, message: Mapping[str, Any] | None, final: bool) -> str:
        """See `EventLog.append`; it does not ask whether the session lives."""
        data = encode_stored(message)
        log = self._logs.get(key)
        if log is None:
            log = self._logs[key] = _Log()
        if stream in log.ended:
            raise StreamEnded(stream)
        log.newest += 1
        log.events.append(_StoredEvent(log.newest, stream, data, self._now(), final))
        log.size += len(data)
        if final:
            log.ended[stream] = None
            while len(log.ended) > self._bounds.max_per_session:
                log.ended.popitem(last=False)
        self._evict(log)
        self.waiters.wake(key)
        return str(EventId.of(log.newest, key, stream))

    def read(self, key: str, after: str | None, stream: str | None, limit: int) -> list[Event]:
        """See `EventLog.read`."""
        log = self._logs.get(key)
        start = EventId.number_after(key, after)
        if log is None or start is None or start >= log.newest:
            return []
        self._evict(log)
        events: list[Event] = []
        # Numbers in the deque are consecutive, so the first one wanted is at a known place.
        skip = max(0, start + 1 - log.events[0].number)
        for index in range(skip, len(log.events)):
            stored = log.events[index]
            if len(events) >= limit:
                break
            if stream is None or stored.stream == stream:
                events.append(stored_event(key, stored.number, stored.stream, stored.data, stored.final))
        return events

    def has_newer(self, key: str, after: str | None) -> bool:
        """Say whether there is an event after `after`."""
        log = self._logs.get(key)
        start = EventId.number_after(key, after)
        return log is not None and start is not None and start < log.newest

    def drop(self, key: str) -> None:
        """Forget the events of a session that has ended, and wake those who wait for more."""
        self._logs.pop(key, None)
        self.waiters.wake(key)

    def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        now = self._now()
        lease = self._leases.get(name)
        if lease is not None and lease[0] != owner and lease[1] > now:
            return False
        self._leases[name] = (owner, now + int(ttl_seconds * _SECOND))
        return True

    def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        lease = self._leases.get(name)
        if lease is not None and lease[0] == owner:
            del self._leases[name]

    def sweep_leases(self) -> None:
        """Forget the leases that have ended."""
        now = self._now()
        self._leases = {name: lease for name, lease in self._leases.items() if lease[1] > now}

    def _now(self) -> int:
        return to_microseconds(self._clock())

    def _evict(self, log: _Log) -> None:
        oldest_allowed = self._now() - int(self._bounds.ttl_seconds * _SECOND)
        events = log.events
        while len(events) > 1 and (
            len(events) > self._bounds.max_per_session
            or log.size > self._bounds.max_bytes
            or events[0].at < oldest_allowed
        ):
            log.size -= len(events.popleft().data)
