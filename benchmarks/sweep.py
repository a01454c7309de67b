"""The time for which a cleanup of many expired sessions blocks the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.isolated import run_isolated
from benchmarks.report import Line, at_most
from benchmarks.scale import Scale
from benchmarks.sessions import IDLE_TIMEOUT, FakeClock, create_sessions, open_manager

GOAL_MILLISECONDS = 10


@dataclass(frozen=True, slots=True)
class Pause:
    """The time of one iteration of the event loop, in seconds."""

    wall: float = 0.0
    cpu: float = 0.0
    """CPU time of the thread of the loop; in the rest of the time the system ran other threads."""
    collecting: float = 0.0
    """The part in which the garbage collector ran."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The result of one cleanup."""

    removed: int
    left: int
    seconds: float
    collections: int
    longest: Pause
    busiest: Pause
    """The pause with the most CPU time: on an otherwise idle machine it would be the longest one."""


def run(scale: Scale) -> Iterator[Line]:
    """Sweep sessions that expired one by one, as after steady traffic, and sessions that expired at the same time."""
    for name, spread in (("over three hours", 3 * 3600.0), ("in one second", 0.0)):
        sweep = run_isolated(measure, scale.expired_sessions, spread)
        pause = sweep.longest
        yield Line(f"expired {name}: removed", f"{sweep.removed:,}", f"{scale.expired_sessions:,}", sweep.left == 0)
        yield Line("  in a total time of", f"{sweep.seconds:.2f} s")
        yield at_most("  longest time the loop was blocked", pause.wall * 1000, GOAL_MILLISECONDS, "ms")
        yield Line("    of that, CPU time of the loop's thread", f"{pause.cpu * 1000:.2f} ms")
        yield Line("    of that, in the garbage collector", f"{pause.collecting * 1000:.2f} ms")
        yield at_most("  the same by CPU time", sweep.busiest.cpu * 1000, GOAL_MILLISECONDS, "ms")
        yield Line("    of that, in the garbage collector", f"{sweep.busiest.collecting * 1000:.2f} ms")
        yield Line("  full garbage collections during the sweep", f"{sweep.collections}")


def measure(count: int, spread: float) -> Sweep:
    """Create sessions over `spread` seconds, let all expire, sweep them, and measure the event loop meanwhile."""
    return asyncio.run(_measure(count, spread))


async def _measure(count: int, spread: float) -> Sweep:
    clock = FakeClock()
    async with open_manager(clock) as manager:
        async for _ in create_sessions(manager, clock, count, spread=spread):
            pass
        clock.advance(2 * IDLE_TIMEOUT)
        monitor = LoopMonitor()
        with monitor.measure():
            # The first iteration begins here.
            await asyncio.sleep(0)
            started = time.perf_counter()
            removed = await manager.cleanup()
            seconds = time.perf_counter() - started
            # The last iteration ends here.
            await asyncio.sleep(0)
        return Sweep(
            removed, await manager.count(), seconds, monitor.full_collections, monitor.longest, monitor.busiest
        )


class LoopMonitor:
    """Measures the longest iterations of the event loop, and the share of the garbage collector in them."""

    def __init__(self) -> None:
        self.longest = Pause()
        self.busiest = Pause()
        self.full_collections = 0
        self._collecting = 0.0
        self._collection_started = 0.0

    @contextmanager
    def measure(self) -> Generator[None]:
        """Measure the iterations of the running loop; the garbage collector runs as in the server."""
        loop = asyncio.get_running_loop()
        wall, cpu = time.perf_counter(), time.thread_time()

        def end_iteration() -> None:
            nonlocal wall, cpu, handle
            wall_now, cpu_now = time.perf_counter(), time.thread_time()
            pause = Pause(wall_now - wall, cpu_now - cpu, self._collecting)
            self.longest = max(self.longest, pause, key=lambda each: each.wall)
            self.busiest = max(self.busiest, pause, key=lambda each: each.cpu)
            self._collecting = 0.0
            wall, cpu = wall_now, cpu_now
            # The loop calls it once in every iteration.
            handle = loop.call_soon(end_iteration)

        handle = loop.call_soon(end_iteration)
        gc.callbacks.append(self._on_collection)
        try:
            yield
        finally:
            gc.callbacks.remove(self._on_collection)
            handle.cancel()

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collection_started = time.perf_counter()
        else:
            self._collecting += time.perf_counter() - self._collection_started
            self.full_collections += info["generation"] == 2
