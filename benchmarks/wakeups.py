"""The time from the append of an event to its arrival at a process that follows the events of the session."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median, quantiles

from benchmarks.backends import Backend, start_backends
from benchmarks.client import TIMEOUT_SECONDS
from benchmarks.isolated import run_isolated, start_fresh_process
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.sessions import FakeClock, create_sessions, make_manager
from mcp_tornado.sessions import EventLog
from mcp_tornado.stores.plugins import open_store

MAX_PAUSE_SECONDS = 0.05
"""Maximum of the random number of seconds between two events."""
_WAIT_SECONDS = 5.0

ELSEWHERE = "appended by another process"
HERE = "appended by the same process"


@dataclass(slots=True)
class _FollowedSession:
    """A session whose events this process follows."""

    url: str
    log: EventLog
    key: str
    after: str | None = None
    """The newest event that was read."""
    delays: dict[str, list[float]] = field(default_factory=lambda: {ELSEWHERE: [], HERE: []})


def run(scale: Scale) -> Iterator[Line]:
    """Follow a session on each store, in turn; another process and this process append events to it."""
    with start_backends() as (_memory, *shared):
        delays = run_isolated(measure, shared, scale.wakeup_rounds, scale.wakeup_events)
    yield Line("events of each kind, at random intervals", f"{scale.wakeup_rounds * scale.wakeup_events}")
    for store, by_process in delays.items():
        here = median(by_process[HERE])
        for process, taken in by_process.items():
            slow, ratio = quantiles(taken, n=20)[-1], median(taken) / here
            note = f"95 % within {slow * 1000:.2f} ms, {ratio:.2f} times one process"
            yield Line(f"{store}: {process}", f"{median(taken) * 1000:.2f} ms", note=note)


def measure(backends: Sequence[Backend], rounds: int, events: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds from append to arrival of every event, by its store and by the appending process."""
    with start_fresh_process() as other:
        return asyncio.run(_measure(backends, other, rounds, events))


async def _measure(
    backends: Sequence[Backend], other: ProcessPoolExecutor, rounds: int, events: int
) -> dict[str, dict[str, list[float]]]:
    async with AsyncExitStack() as stack:
        followed = {backend.name: await _open(backend.url_at(backend.port), stack) for backend in backends}
        for _ in range(rounds):
            for each in followed.values():
                await _run_round(each, other, events)
        return {name: each.delays for name, each in followed.items()}


async def _open(url: str, stack: AsyncExitStack) -> _FollowedSession:
    clock = FakeClock()
    store = await stack.enter_async_context(open_store(url, {}, clock))
    assert isinstance(store, EventLog)
    manager = make_manager(store, clock)
    (session_id,) = [session_id async for session_id in create_sessions(manager, clock, 1)]
    session = await manager.validate(session_id)
    return _FollowedSession(url, store, session.key)


async def _run_round(followed: _FollowedSession, other: ProcessPoolExecutor, count: int) -> None:
    """Follow events of another process, then events of this one."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(_follow(followed, count, ELSEWHERE))
        await loop.run_in_executor(other, append_in_other_process, followed.url, followed.key, count)
    async with asyncio.timeout(TIMEOUT_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(_follow(followed, count, HERE))
        await _append(followed.log, followed.key, count)


async def _follow(followed: _FollowedSession, count: int, process: str) -> None:
    """Read, wait and read again, as the server does, until `count` events have arrived."""
    delays: list[float] = []
    while len(delays) < count:
        events = await followed.log.read(followed.key, followed.after)
        now = time.monotonic()
        for event in events:
            assert event.message is not None
            # On Linux, all processes have the same monotonic clock.
            delays.append(now - event.message["at"])
            followed.after = event.id
        if not events:
            await followed.log.wait(followed.key, followed.after, _WAIT_SECONDS)
    followed.delays[process].extend(delays)


def append_in_other_process(url: str, key: str, count: int) -> None:
    """Append events to a session, from the process that calls this, with a store of its own."""
    asyncio.run(_open_and_append(url, key, count))


async def _open_and_append(url: str, key: str, count: int) -> None:
    async with open_store(url, {}, FakeClock()) as store:
        assert isinstance(store, EventLog)
        await _append(store, key, count)


async def _append(log: EventLog, key: str, count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(random.uniform(0, MAX_PAUSE_SECONDS))
        await log.append(key, "benchmark", {"at": time.monotonic()})
