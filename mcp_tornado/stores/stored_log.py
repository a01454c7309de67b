"""The events of one session as one value, a helper for stores."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from mcp_tornado.sessions.encoding import encode_stored
from mcp_tornado.sessions.errors import StreamEnded
from mcp_tornado.sessions.store import Event, EventBounds, EventId
from mcp_tornado.stores.record import stored_event

_MICROSECONDS_PER_SECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class _StoredEvent:
    number: int
    stream: str
    data: bytes
    """The message as JSON."""
    at: int
    """Time of the append, in microseconds since the epoch."""
    final: bool


@dataclass(slots=True)
class StoredLog:
    """The events of one session or one process, within their bounds.

    The log implements the operations of `EventLog` for one key; it does not know whether the session is live. If a
    database can find single events, it is better to store each event separately.
    """

    newest: int = 0
    """The number of the newest event; 0 if there was none."""
    _size: int = 0
    _events: deque[_StoredEvent] = field(default_factory=deque[_StoredEvent])
    _ended: OrderedDict[str, None] = field(default_factory=OrderedDict[str, None])
    """The streams that have their final event, oldest first."""

    def append(
        self, key: str, stream: str, message: Mapping[str, Any] | None, final: bool, *, now: int, bounds: EventBounds
    ) -> str:
        """See `EventLog.append`; `now` is in microseconds since the epoch."""
        data = encode_stored(message)
        if stream in self._ended:
            raise StreamEnded(stream)
        self.newest += 1
        self._events.append(_StoredEvent(self.newest, stream, data, now, final))
        self._size += len(data)
        if final:
            self._ended[stream] = None
            while len(self._ended) > bounds.max_per_session:
                self._ended.popitem(last=False)
        self._evict(now, bounds)
        return str(EventId.of(self.newest, key, stream))

    def read(
        self, key: str, after: str | None, stream: str | None, limit: int, *, now: int, bounds: EventBounds
    ) -> list[Event]:
        """See `EventLog.read`; `now` is in microseconds since the epoch."""
        if not self.has_newer(key, after):
            return []
        self._evict(now, bounds)
        events: list[Event] = []
        # Numbers in the deque are consecutive, so the index of the first event to return is known.
        start = EventId.number_after(key, after) or 0
        for index in range(max(0, start + 1 - self._events[0].number), len(self._events)):
            stored = self._events[index]
            if len(events) >= limit:
                break
            if stream is None or stored.stream == stream:
                events.append(stored_event(key, stored.number, stored.stream, stored.data, stored.final))
        return events

    def has_newer(self, key: str, after: str | None) -> bool:
        """Return whether there is an event after `after`."""
        start = EventId.number_after(key, after)
        return start is not None and start < self.newest

    def to_dict(self) -> dict[str, Any]:
        """Return the log as JSON types."""
        events = [[event.number, event.stream, event.data.decode(), event.at, event.final] for event in self._events]
        return {"newest": self.newest, "events": events, "ended": list(self._ended)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the log from the form of `to_dict`; an empty mapping means an empty log."""
        events = deque(
            _StoredEvent(number, stream, text.encode(), at, final)
            for number, stream, text, at, final in data.get("events", ())
        )
        size = sum(len(event.data) for event in events)
        return cls(data.get("newest", 0), size, events, OrderedDict.fromkeys(data.get("ended", ())))

    def _evict(self, now: int, bounds: EventBounds) -> None:
        oldest_allowed = now - int(bounds.ttl_seconds * _MICROSECONDS_PER_SECOND)
        events = self._events
        while len(events) > 1 and (
            len(events) > bounds.max_per_session or self._size > bounds.max_bytes or events[0].at < oldest_allowed
        ):
            self._size -= len(events.popleft().data)
