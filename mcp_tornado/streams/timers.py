"""A timer for many callbacks with the same delay. They share one timer of the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class TimerHandle:
    """A callback that waits."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Cancel the callback, and release what it refers to."""
        self.callback = None


class SharedTimer:
    """Calls callbacks after a fixed time.

    Nearly every call cancels its callback before the delay ends. One timer of the event loop for all calls costs less
    than one for each call.

    Args:
        seconds: The delay of every callback.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._pending: deque[tuple[float, TimerHandle]] = deque()
        """The time of each callback (the event loop's clock) and its handle, the earliest first."""
        self._timer: asyncio.TimerHandle | None = None

    def call_later(self, callback: Callable[[], None]) -> TimerHandle:
        """Call `callback` after the delay, unless the returned handle is cancelled before."""
        loop = asyncio.get_running_loop()
        handle = TimerHandle(callback)
        self._pending.append((loop.time() + self._seconds, handle))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._call_due)
        return handle

    def _call_due(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer, now = None, loop.time()
        while self._pending and self._pending[0][0] <= now:
            callback = self._pending.popleft()[1].callback
            if callback is not None:
                callback()
        if self._pending:
            self._timer = loop.call_at(self._pending[0][0], self._call_due)

    def close(self) -> None:
        """Cancel all callbacks."""
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
