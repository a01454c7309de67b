"""Whether `validate` gets slower with the number of sessions."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.isolated import isolated
from benchmarks.report import Line, at_most
from benchmarks.scale import Scale
from benchmarks.sessions import FakeClock, created, manager_on
from mcp_tornado.sessions import SessionManager

GOAL_RATIO = 1.2
IDS_PER_ROUND = 200


def run(scale: Scale) -> Iterator[Line]:
    """Time single validations among few and among many sessions, in turns."""
    few, many = isolated(measure, scale.few_sessions, scale.many_sessions, scale.validate_rounds)
    rounds = f"median of {scale.validate_rounds} rounds"
    yield Line(f"validate among {scale.few_sessions:,} sessions ({rounds})", f"{few * 1e6:.2f} us")
    yield Line(f"validate among {scale.many_sessions:,} sessions ({rounds})", f"{many * 1e6:.2f} us")
    yield at_most("  ratio", many / few, GOAL_RATIO, "times")


def measure(few: int, many: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds of one `validate` in each of two stores."""
    return asyncio.run(_measure(few, many, rounds))


async def _measure(few: int, many: int, rounds: int) -> tuple[float, float]:
    clock = FakeClock()
    choose = random.Random(0)
    async with manager_on(clock) as small, manager_on(clock) as large:
        small_ids = [session_id async for session_id in created(small, clock, few)]
        large_ids = [session_id async for session_id in created(large, clock, many)]
        small_times: list[float] = []
        large_times: list[float] = []
        for _ in range(rounds):
            small_times.append(await _time_of_one(small, choose.choices(small_ids, k=IDS_PER_ROUND)))
            large_times.append(await _time_of_one(large, choose.choices(large_ids, k=IDS_PER_ROUND)))
        return median(small_times), median(large_times)


async def _time_of_one(manager: SessionManager, session_ids: Sequence[str]) -> float:
    # As on a server, an id was just read from a header; what it costs to find it in our large list is not counted.
    fresh = [session_id.encode().decode() for session_id in session_ids]
    # A turn of the loop, which forgets the timers of earlier validations.
    await asyncio.sleep(0)
    started = time.perf_counter()
    for session_id in fresh:
        await manager.validate(session_id)
    return (time.perf_counter() - started) / len(fresh)
