"""The memory that an idle session takes in the memory store."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator

import psutil

from benchmarks.isolated import run_isolated
from benchmarks.report import KIB, Line, at_most
from benchmarks.scale import Scale
from benchmarks.sessions import IDLE_TIMEOUT, FakeClock, create_sessions, open_manager

GOAL_KIB = 2


def run(scale: Scale) -> Iterator[Line]:
    """Measure resident memory and the allocations of Python, each in a new process."""
    count = scale.idle_sessions
    yield Line("sessions, created over one idle timeout", f"{count:,}")
    yield at_most("resident memory (RSS) per session", run_isolated(measure_resident, count) / KIB, GOAL_KIB, "KiB")
    yield at_most(
        "allocated by Python (tracemalloc) per session", run_isolated(measure_allocated, count) / KIB, GOAL_KIB, "KiB"
    )


def measure_resident(count: int) -> float:
    """Return the bytes of resident memory by which the process grows per session."""
    return asyncio.run(_measure_growth(count, lambda: psutil.Process().memory_info().rss))


def measure_allocated(count: int) -> float:
    """Return the bytes that Python allocates and does not free, per session."""
    tracemalloc.start()
    return asyncio.run(_measure_growth(count, lambda: tracemalloc.get_traced_memory()[0]))


async def _measure_growth(count: int, used_bytes: Callable[[], int]) -> float:
    clock = FakeClock()
    async with open_manager(clock) as manager:
        gc.collect()
        before = used_bytes()
        # Spread over the idle timeout, so that the expiry index of the store has as many entries as in real use.
        async for _ in create_sessions(manager, clock, count, spread=IDLE_TIMEOUT):
            pass
        gc.collect()
        return (used_bytes() - before) / count
