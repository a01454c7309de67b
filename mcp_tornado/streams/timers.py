"""One delay for many: callbacks that all wait equally long, on one timer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class TimerHandle:
    """One callback that waits."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call back, and let go of what the callback holds."""
        self.callback = None


class SharedTimer:
    """Calls back after a fixed time.

    A timer of its own for every call, nearly always cancelled, would be work that nearly no call needs.

    Args:
        seconds: How long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: deque[tuple[float, TimerHandle]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def call_later(self, callback: Callable[[], None]) -> TimerHandle:
        """Call `callback` once the time has passed, unless the wait that is returned is called off before."""
        loop = asyncio.get_running_loop()
        wait = TimerHandle(callback)
        self._waiting.append((loop.time() + self._seconds, wait))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._call)
        return wait

    def _call(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer, now = None, loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            callback = self._waiting.popleft()[1].callback
            if callback is not None:
                callback()
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self._call)

    def close(self) -> None:
        """Call nobody back any more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
