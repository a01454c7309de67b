"""What one `validate` and one `refresh` cost on every store, beside the memory store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import median

from benchmarks.backends import Backend, backends, counted
from benchmarks.isolated import isolated
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.sessions import FakeClock, created, manager_of
from mcp_tornado.sessions import SessionManager
from mcp_tornado.stores.plugins import open_store

PER_ROUND = 20
AT_ONCE = 50
"""How many tasks fill a store."""
UNSEEN = timedelta(seconds=60)
"""How long ago a session was last seen whose refresh writes."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What one operation took on one store: seconds, and round trips to a server (`None`: there is none)."""

    store: str
    operation: str
    seconds: float
    round_trips: float | None


def run(scale: Scale) -> Iterator[Line]:
    """Measure all stores in turns, at two sizes."""
    for sessions in scale.store_sessions:
        with backends() as found:
            figures = isolated(measure, found, sessions, scale.store_rounds)
        for figure in figures:
            (memory,) = [
                each.seconds for each in figures if (each.store, each.operation) == ("memory", figure.operation)
            ]
            trips = "" if figure.round_trips is None else f", {figure.round_trips:.2f} round trips"
            yield Line(
                f"{figure.store}, {sessions:,} sessions: {figure.operation}",
                f"{figure.seconds * 1e6:,.1f} us",
                note=f"{figure.seconds / memory:,.1f} times memory{trips}",
            )


def measure(found: Sequence[Backend], sessions: int, rounds: int) -> list[Figure]:
    """Return the medians for each store and operation."""
    return asyncio.run(_measure(found, sessions, rounds))


async def _measure(found: Sequence[Backend], sessions: int, rounds: int) -> list[Figure]:
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        filled = [await stack.enter_async_context(_filled(backend, clock, sessions)) for backend in found]
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for store in filled:
                for operation, taken in (await _round(store.manager, store.chosen(), time.perf_counter)).items():
                    times.setdefault((store.backend.name, operation), []).append(taken)
        trips = {store.backend.name: await _trips(store, clock) for store in filled}
        return [
            Figure(store, operation, median(taken), trips[store].get(operation))
            for (store, operation), taken in times.items()
        ]


@dataclass(frozen=True, slots=True)
class _Filled:
    """A store with sessions."""

    backend: Backend
    manager: SessionManager
    ids: Sequence[str]
    choose: random.Random

    def chosen(self) -> list[str]:
        """Return the ids of some sessions."""
        return self.choose.choices(self.ids, k=PER_ROUND)


@asynccontextmanager
async def _filled(backend: Backend, clock: FakeClock, count: int) -> AsyncGenerator[_Filled]:
    async with open_store(backend.at(backend.port), {}, clock) as store:
        manager = manager_of(store, clock)

        async def fill(number: int) -> list[str]:
            share = count // AT_ONCE + (number < count % AT_ONCE)
            return [session_id async for session_id in created(manager, clock, share)]

        ids = [session_id for made in await asyncio.gather(*map(fill, range(AT_ONCE))) for session_id in made]
        yield _Filled(backend, manager, ids, random.Random(0))


async def _round(manager: SessionManager, ids: Sequence[str], meter: Callable[[], float]) -> dict[str, float]:
    """Do each operation to each session, and return by how much that moved a meter, for one."""
    start = meter()
    sessions = [await manager.validate(session_id) for session_id in ids]
    moved = {"validate": meter() - start}
    unseen = [replace(session, last_seen_at=session.last_seen_at - UNSEEN) for session in sessions]
    for operation, those in (("refresh, throttled", sessions), ("refresh that writes", unseen)):
        start = meter()
        for session in those:
            await manager.refresh(session)
        moved[operation] = meter() - start
    return {operation: total / len(ids) for operation, total in moved.items()}


async def _trips(store: _Filled, clock: FakeClock) -> dict[str, float]:
    """Count the round trips of each operation, through a proxy; nothing where there is no server."""
    if store.backend.port is None:
        return {}
    async with counted(store.backend.port) as (port, trips), open_store(store.backend.at(port), {}, clock) as other:
        return await _round(manager_of(other, clock), store.chosen(), lambda: trips.count)
