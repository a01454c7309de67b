"""What an idle session costs in the memory store."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator

import psutil

from benchmarks.isolated import isolated
from benchmarks.report import KIB, Line, at_most
from benchmarks.scale import Scale
from benchmarks.sessions import IDLE_TIMEOUT, FakeClock, created, manager_on

GOAL_KIB = 2


def run(scale: Scale) -> Iterator[Line]:
    """Measure twice, each time in a fresh process: what the system gave, and what Python asked for."""
    count = scale.idle_sessions
    yield Line("sessions, created over one idle timeout", f"{count:,}")
    yield at_most("resident memory (RSS) per session", isolated(resident, count) / KIB, GOAL_KIB, "KiB")
    yield at_most("allocated by Python (tracemalloc) per session", isolated(traced, count) / KIB, GOAL_KIB, "KiB")


def resident(count: int) -> float:
    """Return the bytes by which the process grows per session."""
    return asyncio.run(_growth(count, lambda: psutil.Process().memory_info().rss))


def traced(count: int) -> float:
    """Return the bytes that Python allocates and keeps per session."""
    tracemalloc.start()
    return asyncio.run(_growth(count, lambda: tracemalloc.get_traced_memory()[0]))


async def _growth(count: int, used: Callable[[], int]) -> float:
    clock = FakeClock()
    async with manager_on(clock) as manager:
        gc.collect()
        before = used()
        # Spread over the idle timeout, they stand under as many seconds as real ones would.
        async for _ in created(manager, clock, count, spread=IDLE_TIMEOUT):
            pass
        gc.collect()
        return (used() - before) / count
