"""The time of `validate`, by the number of sessions."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.isolated import run_isolated
from benchmarks.report import Line, at_most
from benchmarks.scale import Scale
from benchmarks.sessions import FakeClock, create_sessions, open_manager
from mcp_tornado.sessions import SessionManager

GOAL_RATIO = 1.2
IDS_PER_ROUND = 200


def run(scale: Scale) -> Iterator[Line]:
    """Measure single validations with few and with many sessions, in turn."""
    few, many = run_isolated(measure, scale.few_sessions, scale.many_sessions, scale.validate_rounds)
    rounds = f"median of {scale.validate_rounds} rounds"
    yield Line(f"validate among {scale.few_sessions:,} sessions ({rounds})", f"{few * 1e6:.2f} us")
    yield Line(f"validate among {scale.many_sessions:,} sessions ({rounds})", f"{many * 1e6:.2f} us")
    yield at_most("  ratio", many / few, GOAL_RATIO, "times")


def measure(few: int, many: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds of one `validate` in each of two stores."""
    return asyncio.run(_measure(few, many, rounds))


async def _measure(few: int, many: int, rounds: int) -> tuple[float, float]:
    clock = FakeClock()
    generator = random.Random(0)
    async with open_manager(clock) as small, open_manager(clock) as large:
        small_ids = [session_id async for session_id in create_sessions(small, clock, few)]
        large_ids = [session_id async for session_id in create_sessions(large, clock, many)]
        small_times: list[float] = []
        large_times: list[float] = []
        for _ in range(rounds):
            small_times.append(await _measure_one(small, generator.choices(small_ids, k=IDS_PER_ROUND)))
            large_times.append(await _measure_one(large, generator.choices(large_ids, k=IDS_PER_ROUND)))
        return median(small_times), median(large_times)


async def _measure_one(manager: SessionManager, session_ids: Sequence[str]) -> float:
    # New strings, as a server reads them from headers. Their cache misses in the large list are not part of the time.
    fresh = [session_id.encode().decode() for session_id in session_ids]
    # One iteration of the event loop, in which it frees the timers of earlier validations.
    await asyncio.sleep(0)
    started = time.perf_counter()
    for session_id in fresh:
        await manager.validate(session_id)
    return (time.perf_counter() - started) / len(fresh)
