"""How soon a process that follows a session's events has one that another process appends."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median, quantiles

from benchmarks.backends import Backend, backends
from benchmarks.client import TIME_LIMIT
from benchmarks.isolated import fresh_process, isolated
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.sessions import FakeClock, created, manager_of
from mcp_tornado.sessions import EventLog
from mcp_tornado.stores.plugins import open_store

LONGEST_PAUSE = 0.05
"""Seconds between two events, at the most; how many it is each time is random."""
_WAIT = 5.0

ELSEWHERE = "appended by another process"
HERE = "appended by the same process"


@dataclass(slots=True)
class _Followed:
    """A session whose events are followed in this process."""

    url: str
    log: EventLog
    key: str
    after: str | None = None
    """The newest event that was read."""
    delays: dict[str, list[float]] = field(default_factory=lambda: {ELSEWHERE: [], HERE: []})


def run(scale: Scale) -> Iterator[Line]:
    """Follow a session on each store, in turns; one other process and the same one append to it."""
    with backends() as (_memory, *shared):
        delays = isolated(measure, shared, scale.wakeup_rounds, scale.wakeup_events)
    yield Line("events of each kind, at random intervals", f"{scale.wakeup_rounds * scale.wakeup_events}")
    for store, by_whom in delays.items():
        here = median(by_whom[HERE])
        for who, taken in by_whom.items():
            slow, ratio = quantiles(taken, n=20)[-1], median(taken) / here
            note = f"95 % within {slow * 1000:.2f} ms, {ratio:.2f} times one process"
            yield Line(f"{store}: {who}", f"{median(taken) * 1000:.2f} ms", note=note)


def measure(found: Sequence[Backend], rounds: int, events: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds from append to arrival of every event, by its store and by who appended it."""
    with fresh_process() as other:
        return asyncio.run(_measure(found, other, rounds, events))


async def _measure(
    found: Sequence[Backend], other: ProcessPoolExecutor, rounds: int, events: int
) -> dict[str, dict[str, list[float]]]:
    async with AsyncExitStack() as stack:
        followed = {backend.name: await _opened(backend.at(backend.port), stack) for backend in found}
        for _ in range(rounds):
            for each in followed.values():
                await _round(each, other, events)
        return {name: each.delays for name, each in followed.items()}


async def _opened(url: str, stack: AsyncExitStack) -> _Followed:
    clock = FakeClock()
    store = await stack.enter_async_context(open_store(url, {}, clock))
    assert isinstance(store, EventLog)
    manager = manager_of(store, clock)
    (session_id,) = [session_id async for session_id in created(manager, clock, 1)]
    session = await manager.validate(session_id)
    return _Followed(url, store, session.key)


async def _round(followed: _Followed, other: ProcessPoolExecutor, count: int) -> None:
    """Follow some events of another process, then some of this one."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIME_LIMIT), asyncio.TaskGroup() as group:
        group.create_task(_follow(followed, count, ELSEWHERE))
        await loop.run_in_executor(other, append_from_outside, followed.url, followed.key, count)
    async with asyncio.timeout(TIME_LIMIT), asyncio.TaskGroup() as group:
        group.create_task(_follow(followed, count, HERE))
        await _append(followed.log, followed.key, count)


async def _follow(followed: _Followed, count: int, who: str) -> None:
    """Read, wait and read again, as the server does, until that many events were there."""
    delays: list[float] = []
    while len(delays) < count:
        events = await followed.log.read(followed.key, followed.after)
        now = time.monotonic()
        for event in events:
            assert event.message is not None
            # On Linux this clock is the same in all processes.
            delays.append(now - event.message["at"])
            followed.after = event.id
        if not events:
            await followed.log.wait(followed.key, followed.after, _WAIT)
    followed.delays[who].extend(delays)


def append_from_outside(url: str, key: str, count: int) -> None:
    """Append events to a session, in this process, which has nothing else to do with it."""
    asyncio.run(_open_and_append(url, key, count))


async def _open_and_append(url: str, key: str, count: int) -> None:
    async with open_store(url, {}, FakeClock()) as store:
        assert isinstance(store, EventLog)
        await _append(store, key, count)


async def _append(log: EventLog, key: str, count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(random.uniform(0, LONGEST_PAUSE))
        await log.append(key, "benchmark", {"at": time.monotonic()})
