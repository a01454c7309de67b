"""The periodic sweep of expired sessions."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from tornado.ioloop import PeriodicCallback

from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions.manager import SessionManager

_log = get_logger(__name__)

_JITTER: Final = 0.1
"""Share by which each interval varies, so that processes that start together do not sweep together."""


class CleanupService:
    """Sweeps expired sessions every `interval` seconds, one sweep at a time.

    If a sweep fails, the failure is logged and counted, and the next tick sweeps again.
    """

    def __init__(self, manager: SessionManager, interval: float, *, metrics: Metrics) -> None:
        self._manager = manager
        self._metrics = metrics
        self._timer = PeriodicCallback(self._tick, interval * 1000, jitter=_JITTER)
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the timer; the first sweep runs after one interval."""
        self._timer.start()

    async def stop(self) -> None:
        """Stop the timer, and wait until a running sweep ends."""
        self._timer.stop()
        if self._running is not None:
            await self._running

    def _tick(self) -> None:
        # PeriodicCallback.stop() does not wait for a running tick, so the sweep is a task that stop() can await.
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self.sweep())

    async def sweep(self) -> None:
        """Sweep once, now. A failure of the store raises nothing."""
        started = time.perf_counter()
        try:
            removed = await self._manager.cleanup()
        except Exception:  # the next tick must run whatever the store raises; the guard has logged and counted it
            return
        self._metrics.cleanup_last_success.set_to_current_time()
        _log.info("cleanup.finished", removed=removed, seconds=round(time.perf_counter() - started, 6))
