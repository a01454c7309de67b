"""The limits of sessions, and the times that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_TOUCHES_PER_IDLE_TIMEOUT: Final = 10
"""The touch interval is at most the idle timeout divided by this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """How long sessions live, how many may be open, and how large their state may be.

    Times are in seconds. For `lifetime`, `max_sessions` and `max_per_principal`, 0 means no limit.
    """

    idle_timeout: float = 3600
    lifetime: float = 604_800
    touch_interval: float = 30
    max_sessions: int = 100_000
    max_per_principal: int = 0
    max_state_bytes: int = 65_536

    @property
    def effective_touch_interval(self) -> float:
        """The touch interval in seconds, bounded by a part of the idle timeout."""
        return min(self.touch_interval, self._longest_touch_interval)

    @property
    def keepalive_interval(self) -> float:
        """Interval, in seconds, at which a session in use must be refreshed so that it does not expire."""
        return max(self.effective_touch_interval, min(1.0, self._longest_touch_interval))

    def expires_at(self, *, created_at: datetime, seen_at: datetime) -> datetime:
        """Return when a session expires that was created and last seen at these times."""
        # One touch interval is added to the idle timeout: a use right after a write is not written, and the session
        # must still live its whole idle timeout after that use.
        expires_at = seen_at + timedelta(seconds=self.idle_timeout) + timedelta(seconds=self.effective_touch_interval)
        if self.lifetime:
            return min(expires_at, created_at + timedelta(seconds=self.lifetime))
        return expires_at

    @property
    def _longest_touch_interval(self) -> float:
        return self.idle_timeout / _TOUCHES_PER_IDLE_TIMEOUT
