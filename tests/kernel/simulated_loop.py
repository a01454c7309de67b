"""An event loop with simulated time, which records the tasks of each simulated process."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Final

_START_TIME: Final = datetime(2026, 11, 1, 12, tzinfo=UTC)
_MAX_CANCELLATIONS: Final = 1000
"""How often `destroy` cancels a task that catches its cancellation, or that starts another task."""

tasks_of_process: Final[ContextVar[dict[asyncio.Task, None] | None]] = ContextVar("tasks_of_process", default=None)
"""The unfinished tasks of the simulated process whose code runs; `None` outside of a process."""


class _JumpingSelector(selectors.DefaultSelector):
    """Lets the simulated time pass instead of sleeping."""

    now = 0.0

    def select(self, timeout=None):
        assert timeout is not None, "deadlock: no task is ready and no timer is set"
        self.now += max(timeout, 0)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that never sleeps. If no task is ready, its time jumps to the next timer."""

    def __init__(self) -> None:
        self._jumping_selector = _JumpingSelector()
        super().__init__(self._jumping_selector)
        self.set_task_factory(_create_task)
        self.set_exception_handler(lambda _, context: self.report(repr(context)))
        self.faults: list[str] = []
        """What the model has found wrong, and the exceptions that no code has handled."""

    def time(self) -> float:
        """Return the seconds since the start of the simulation."""
        return self._jumping_selector.now

    def clock(self) -> datetime:
        """Return the simulated time of day, as a `Clock` does."""
        return _START_TIME + timedelta(seconds=self.time())

    def report(self, fault: str) -> None:
        """Add a fault, with the time of its discovery. `SimulatedCluster.run` raises it."""
        self.faults.append(f"at {self.time():.3f}: {fault}")


def _create_task(loop, coroutine, context=None):
    tasks = tasks_of_process.get() if context is None else context.get(tasks_of_process)
    task = asyncio.Task(coroutine, loop=loop, context=context)
    if tasks is not None:
        tasks[task] = None
        task.add_done_callback(lambda done: tasks.pop(done, None))
    return task


async def destroy(current_tasks: Callable[[], Iterable[asyncio.Task]]) -> None:
    """Cancel tasks until none is left, although a cancelled task may go on or start another task.

    Args:
        current_tasks: Returns the tasks that exist now.
    """
    for _ in range(_MAX_CANCELLATIONS):
        unfinished = [task for task in current_tasks() if not task.done() and task is not asyncio.current_task()]
        if not unfinished:
            return
        for task in unfinished:
            task.cancel()
        await asyncio.sleep(0)
    raise AssertionError(f"these tasks still run after {_MAX_CANCELLATIONS} cancellations: {unfinished}")
