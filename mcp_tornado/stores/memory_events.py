"""Events and leases in the memory of this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mcp_tornado.sessions.model import to_microseconds
from mcp_tornado.sessions.store import Clock, Event, EventBounds
from mcp_tornado.stores.leases import Leases
from mcp_tornado.stores.stored_log import StoredLog
from mcp_tornado.stores.waiters import Waiters


class MemoryEvents:
    """Events and leases, without knowledge of sessions: the owner calls `drop` when a session ends.

    No method yields to the event loop, so every method is atomic.
    """

    def __init__(self, clock: Clock, bounds: EventBounds) -> None:
        self.waiters = Waiters()
        """The tasks that wait for events; `append` and `drop` wake them."""
        self.leases = Leases({})
        self._clock = clock
        self._bounds = bounds
        self._logs: dict[str, StoredLog] = {}

    def keys(self) -> Iterable[str]:
        """Return the keys that have events."""
        return self._logs.keys()

    def append(self, key: str, stream: str, message: Mapping[str, Any] | None, final: bool) -> str:
        """See `EventLog.append`; this does not check that the session is live."""
        log = self._logs.get(key) or StoredLog()
        event_id = log.append(key, stream, message, final, now=self._now(), bounds=self._bounds)
        self._logs[key] = log
        self.waiters.wake(key)
        return event_id

    def read(self, key: str, after: str | None, stream: str | None, limit: int) -> list[Event]:
        """See `EventLog.read`."""
        log = self._logs.get(key)
        return log.read(key, after, stream, limit, now=self._now(), bounds=self._bounds) if log is not None else []

    def has_newer(self, key: str, after: str | None) -> bool:
        """Return whether there is an event after `after`."""
        log = self._logs.get(key)
        return log is not None and log.has_newer(key, after)

    def drop(self, key: str) -> None:
        """Remove the events under a key, and wake the tasks that wait for more."""
        self._logs.pop(key, None)
        self.waiters.wake(key)

    def _now(self) -> int:
        return to_microseconds(self._clock())
