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
        """The touch interval in seconds: `touch_interval`, but at most a tenth of the idle timeout."""
        return min(self.touch_interval, self._longest_touch_interval)

    @property
    def keepalive_interval(self) -> float:
        """Interval, in seconds, at which the kernel refreshes sessions that have a running call or an open stream.

        It is the touch interval, but not less than 1 second, or than a tenth of an idle timeout below 10 seconds. A
        session that is refreshed at this interval does not expire before its lifetime ends.
        """
        return max(self.effective_touch_interval, min(1.0, self._longest_touch_interval))

    def expires_at(self, *, created_at: datetime, seen_at: datetime) -> datetime:
        """Return the time at which a session expires if it was created and last seen at these times."""
        # One touch interval is added to the idle timeout. A use within a touch interval after a write is not written,
        # but the session must still live a whole idle timeout after that use.
        expires_at = seen_at + timedelta(seconds=self.idle_timeout) + timedelta(seconds=self.effective_touch_interval)
        if self.lifetime:
            return min(expires_at, created_at + timedelta(seconds=self.lifetime))
        return expires_at

    @property
    def _longest_touch_interval(self) -> float:
        return self.idle_timeout / _TOUCHES_PER_IDLE_TIMEOUT
