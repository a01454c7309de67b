"""One delay for many: callbacks that all wait equally long, on one timer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Patience:
    """Calls back after a fixed time.

    A timer of its own for every call, nearly always cancelled, would cost a small call a twentieth of its time.

    Args:
        seconds: How long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def after(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the time has passed; it cannot be called off, so it must not mind to be late."""
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time() + self._seconds, callback))
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._call)

    def _call(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._waiting and self._waiting[0][0] <= loop.time():
            self._waiting.popleft()[1]()
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self._call)

    def close(self) -> None:
        """Call nobody back any more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
