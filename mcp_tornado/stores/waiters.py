"""Tasks of this process that wait for events, a helper for stores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection


class Waiters:
    """Tasks that wait for something new under a key.

    A store implements `EventLog.wait` with `wait`, and calls `wake` when it learns of a change in this process or in
    another one. It may call `wake` without a change: a woken task only reads again.
    """

    def __init__(self) -> None:
        self._woken: dict[str, set[asyncio.Event]] = {}

    def keys(self) -> Collection[str]:
        """Return the keys for which tasks wait."""
        return self._woken.keys()

    def wake(self, key: str) -> None:
        """Wake the tasks that wait for a key."""
        for woken in self._woken.get(key, ()):
            woken.set()

    def wake_all(self) -> None:
        """Wake all tasks. Call this when the store closes, and when it may have missed changes."""
        for key in self._woken:
            self.wake(key)

    async def wait(self, key: str, timeout: float, is_new: Callable[[], Awaitable[bool]]) -> bool:
        """Wait at most `timeout` seconds until woken, and return whether there may be something new to read.

        Args:
            key: The key to wait for.
            timeout: The timeout in seconds.
            is_new: Returns whether there is something new already. It is called once, when this task is registered: a
                later change wakes the task.
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
