"""A clock that tests move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    """Starts at the real time, and moves forward only when it is told to."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """Return the time it shows, as a `Clock` does."""
        return self._now

    def advance(self, seconds: float = 0.0, *, microseconds: int = 0) -> datetime:
        """Move it forward and return the time it shows now.

        Raises:
            ValueError: It would go backwards.
        """
        step = timedelta(seconds=seconds, microseconds=microseconds)
        if step < timedelta(0):
            raise ValueError("time does not go backwards")
        self._now += step
        return self._now

    def to_the_next_second(self) -> datetime:
        """Move it to the beginning of the next second and return that."""
        return self.advance(microseconds=1_000_000 - self._now.microsecond)
