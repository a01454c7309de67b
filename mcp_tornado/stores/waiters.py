"""Who waits, in this process, for the events of which session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection


class Waiters:
    """Tasks that wait for something new under a key, until they are woken.

    For stores: `EventLog.wait` is `wait`, and whatever hears of a change, in this process or from another one,
    calls `wake`. To wake somebody for nothing is no fault: who waits reads again.
    """

    def __init__(self) -> None:
        self._woken: dict[str, set[asyncio.Event]] = {}

    def keys(self) -> Collection[str]:
        """Return the keys for which somebody waits."""
        return self._woken.keys()

    def wake(self, key: str) -> None:
        """Wake those who wait for a key."""
        for woken in self._woken.get(key, ()):
            woken.set()

    def wake_all(self) -> None:
        """Wake everybody: after a gap in what is heard, and when the store is closed."""
        for key in self._woken:
            self.wake(key)

    async def wait(self, key: str, timeout: float, is_new: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until woken, at most `timeout` seconds; say whether there may be something new to read.

        Args:
            key: What to wait for.
            timeout: Seconds.
            is_new: Looks whether there is something already. It is called once, when a change that comes later
                is sure to wake.
        """
        woken = asyncio.Event()
        waiting = self._woken.setdefault(key, set())
        waiting.add(woken)
        try:
            if await is_new():
                return True
            try:
                async with asyncio.timeout(timeout):
                    await woken.wait()
            except TimeoutError:
                return woken.is_set()
            return True
        finally:
            waiting.discard(woken)
            if not waiting:
                self._woken.pop(key, None)
