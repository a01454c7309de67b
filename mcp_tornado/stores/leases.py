"""Leases in a dict, a helper for stores."""

from __future__ import annotations

from typing import Any, Final

_MICROSECONDS_PER_SECOND: Final = 1_000_000


class Leases:
    """The owner and the end of each lease. An operation is atomic if nothing else changes the dict while it runs.

    Args:
        held: The leases by name, as JSON types; it is changed in place. Times are in microseconds since the epoch.
    """

    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held

    def claim(self, name: str, owner: str, ttl_seconds: float, *, now: int) -> bool:
        """See `EventLog.claim`; `now` is in microseconds since the epoch."""
        holder, ends_at = self.held.get(name, (owner, now))
        if holder != owner and ends_at > now:
            return False
        self.held[name] = [owner, now + int(ttl_seconds * _MICROSECONDS_PER_SECOND)]
        return True

    def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        if name in self.held and self.held[name][0] == owner:
            del self.held[name]

    def sweep(self, *, now: int) -> None:
        """Remove the leases that have ended; `now` is in microseconds since the epoch."""
        for name in [name for name, (_, ends_at) in self.held.items() if ends_at <= now]:
            del self.held[name]
