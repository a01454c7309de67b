"""The background tasks of a process, which it waits for in a drain and cancels when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a background task; see `BackgroundTasks`."""


class BackgroundTasks:
    """Starts tasks and keeps a reference to each until it ends; asyncio itself keeps only weak ones.

    `wait` waits for the tasks of `spawn`, but not for those of `spawn_detached`. `cancel_all` ends both.
    """

    def __init__(self) -> None:
        self._awaited: set[asyncio.Task[Any]] = set()
        self._detached: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that `wait` waits for."""
        return self.add(asyncio.create_task(work))

    def spawn_detached(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that `wait` does not wait for."""
        return _keep(asyncio.create_task(work), self._detached)

    def add(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """Keep a task that the caller has started, as if `spawn` had started it."""
        return _keep(task, self._awaited)

    async def wait(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for the tasks of `spawn` that run now."""
        running = [task for task in self._awaited if not task.done()]
        if running:
            await asyncio.wait(running, timeout=timeout)

    async def cancel_all(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        tasks = [*self._awaited, *self._detached]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _keep(task: asyncio.Task[None], tasks: set[asyncio.Task[Any]]) -> asyncio.Task[None]:
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task
