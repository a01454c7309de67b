"""How long a cleanup of very many expired sessions keeps the event loop from everything else."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.isolated import isolated
from benchmarks.report import Line, at_most
from benchmarks.scale import Scale
from benchmarks.sessions import IDLE_TIMEOUT, FakeClock, created, manager_on

GOAL_MILLISECONDS = 10


@dataclass(frozen=True, slots=True)
class Pause:
    """One turn of the event loop, in seconds."""

    wall: float = 0.0
    cpu: float = 0.0
    """What the loop's thread itself was busy for; the rest the system gave to others."""
    collecting: float = 0.0
    """The part of it in which the garbage collector ran."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """How one cleanup went."""

    removed: int
    left: int
    seconds: float
    collections: int
    longest: Pause
    busiest: Pause
    """The pause with the most CPU time: what a machine with nothing else to do would show as the longest."""


def run(scale: Scale) -> Iterator[Line]:
    """Sweep sessions that expired one by one, as after steady traffic, and sessions that all expired at once."""
    for name, spread in (("over three hours", 3 * 3600.0), ("in one second", 0.0)):
        sweep = isolated(measure, scale.expired_sessions, spread)
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
    """Create sessions over `spread` seconds, let all expire, sweep them, and watch the event loop meanwhile."""
    return asyncio.run(_measure(count, spread))


async def _measure(count: int, spread: float) -> Sweep:
    clock = FakeClock()
    async with manager_on(clock) as manager:
        async for _ in created(manager, clock, count, spread=spread):
            pass
        clock.advance(2 * IDLE_TIMEOUT)
        watch = LoopWatch()
        with watch.collector_watched():
            ticking = asyncio.create_task(watch.tick())
            await asyncio.sleep(0)
            started = time.perf_counter()
            removed = await manager.cleanup()
            seconds = time.perf_counter() - started
            # One more turn, for the last pause to be noted.
            await asyncio.sleep(0)
            ticking.cancel()
        return Sweep(removed, await manager.count(), seconds, watch.full_collections, watch.longest, watch.busiest)


class LoopWatch:
    """Notes the longest turns of the event loop, and what the garbage collector had to do with them."""

    def __init__(self) -> None:
        self.longest = Pause()
        self.busiest = Pause()
        self.full_collections = 0
        self._collecting = 0.0
        self._collection_started = 0.0

    async def tick(self) -> None:
        """Run once in every turn of the loop, until cancelled."""
        wall, cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0)
            wall_now, cpu_now = time.perf_counter(), time.thread_time()
            pause = Pause(wall_now - wall, cpu_now - cpu, self._collecting)
            self.longest = max(self.longest, pause, key=lambda each: each.wall)
            self.busiest = max(self.busiest, pause, key=lambda each: each.cpu)
            self._collecting = 0.0
            wall, cpu = wall_now, cpu_now

    @contextmanager
    def collector_watched(self) -> Generator[None]:
        """Note the collector's pauses; it is left as the server runs it."""
        gc.callbacks.append(self._on_collection)
        try:
            yield
        finally:
            gc.callbacks.remove(self._on_collection)

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collection_started = time.perf_counter()
        else:
            self._collecting += time.perf_counter() - self._collection_started
            self.full_collections += info["generation"] == 2
