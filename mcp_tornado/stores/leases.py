"""Leases in a dict, for stores that keep them so."""

from __future__ import annotations

from typing import Any, Final

_SECOND: Final = 1_000_000


class Leases:
    """Who has which lease, and until when; each operation is atomic where nothing else touches the dict meanwhile.

    Args:
        held: The leases by name, as JSON types; it is changed in place. Times are microseconds since the epoch.
    """

    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held

    def claim(self, name: str, owner: str, ttl_seconds: float, *, now: int) -> bool:
        """See `EventLog.claim`."""
        holder, ends = self.held.get(name, (owner, now))
        if holder != owner and ends > now:
            return False
        self.held[name] = [owner, now + int(ttl_seconds * _SECOND)]
        return True

    def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        if name in self.held and self.held[name][0] == owner:
            del self.held[name]

    def sweep(self, *, now: int) -> None:
        """Forget the leases that have ended."""
        for name in [name for name, (_, ends) in self.held.items() if ends <= now]:
            del self.held[name]
