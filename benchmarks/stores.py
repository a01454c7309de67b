"""The time and round trips of one `validate` and one `refresh` on every store, compared with the memory store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import median

from benchmarks.backends import Backend, count_round_trips, start_backends
from benchmarks.isolated import run_isolated
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.sessions import FakeClock, create_sessions, make_manager
from mcp_tornado.sessions import SessionManager
from mcp_tornado.stores.plugins import open_store

SESSIONS_PER_ROUND = 20
FILLING_TASKS = 50
"""Number of tasks that fill a store with sessions."""
UNSEEN_TIME = timedelta(seconds=60)
"""The time since a session was last seen, for the sessions whose refresh writes."""


@dataclass(frozen=True, slots=True)
class Figure:
    """The seconds and the round trips of one operation on one store; `None` if the store has no server."""

    store: str
    operation: str
    seconds: float
    round_trips: float | None


def run(scale: Scale) -> Iterator[Line]:
    """Measure all stores in turn, with two numbers of sessions."""
    for sessions in scale.store_sessions:
        with start_backends() as backends:
            figures = run_isolated(measure, backends, sessions, scale.store_rounds)
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


def measure(backends: Sequence[Backend], sessions: int, rounds: int) -> list[Figure]:
    """Return the medians of each store and operation."""
    return asyncio.run(_measure(backends, sessions, rounds))


async def _measure(backends: Sequence[Backend], sessions: int, rounds: int) -> list[Figure]:
    clock = FakeClock()
    async with AsyncExitStack() as stack:
        filled = [await stack.enter_async_context(_fill(backend, clock, sessions)) for backend in backends]
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for store in filled:
                for operation, taken in (
                    await _run_round(store.manager, store.choose_ids(), time.perf_counter)
                ).items():
                    times.setdefault((store.backend.name, operation), []).append(taken)
        trips = {store.backend.name: await _measure_round_trips(store, clock) for store in filled}
        return [
            Figure(store, operation, median(taken), trips[store].get(operation))
            for (store, operation), taken in times.items()
        ]


@dataclass(frozen=True, slots=True)
class _FilledStore:
    """A store with sessions."""

    backend: Backend
    manager: SessionManager
    ids: Sequence[str]
    generator: random.Random

    def choose_ids(self) -> list[str]:
        """Return the ids of random sessions."""
        return self.generator.choices(self.ids, k=SESSIONS_PER_ROUND)


@asynccontextmanager
async def _fill(backend: Backend, clock: FakeClock, count: int) -> AsyncGenerator[_FilledStore]:
    async with open_store(backend.url_at(backend.port), {}, clock) as store:
        manager = make_manager(store, clock)

        async def fill(number: int) -> list[str]:
            share = count // FILLING_TASKS + (number < count % FILLING_TASKS)
            return [session_id async for session_id in create_sessions(manager, clock, share)]

        ids = [session_id for made in await asyncio.gather(*map(fill, range(FILLING_TASKS))) for session_id in made]
        yield _FilledStore(backend, manager, ids, random.Random(0))


async def _run_round(manager: SessionManager, ids: Sequence[str], meter: Callable[[], float]) -> dict[str, float]:
    """Run each operation on each session, and return by how much the meter increased per session."""
    start = meter()
    sessions = [await manager.validate(session_id) for session_id in ids]
    increases = {"validate": meter() - start}
    unseen = [replace(session, last_seen_at=session.last_seen_at - UNSEEN_TIME) for session in sessions]
    for operation, refreshed in (("refresh, throttled", sessions), ("refresh that writes", unseen)):
        start = meter()
        for session in refreshed:
            await manager.refresh(session)
        increases[operation] = meter() - start
    return {operation: increase / len(ids) for operation, increase in increases.items()}


async def _measure_round_trips(store: _FilledStore, clock: FakeClock) -> dict[str, float]:
    """Return the round trips of each operation, counted by a proxy; nothing if the store has no server."""
    if store.backend.port is None:
        return {}
    async with (
        count_round_trips(store.backend.port) as (port, trips),
        open_store(store.backend.url_at(port), {}, clock) as other,
    ):
        return await _run_round(make_manager(other, clock), store.choose_ids(), lambda: trips.count)
