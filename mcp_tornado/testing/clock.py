"""A clock that tests move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """A clock that starts at the real time and moves forward only when a test moves it."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """Return the time of this clock, as a `Clock` does."""
        return self._now

    def advance(self, seconds: float = 0.0, *, microseconds: int = 0) -> datetime:
        """Move the clock forward, and return its new time.

        Raises:
            ValueError: The clock would go backwards.
        """
        step = timedelta(seconds=seconds, microseconds=microseconds)
        if step < timedelta(0):
            raise ValueError("the clock cannot go backwards")
        self._now += step
        return self._now

    def to_the_next_second(self) -> datetime:
        """Move the clock to the beginning of the next second, and return that time."""
        return self.advance(microseconds=1_000_000 - self._now.microsecond)
