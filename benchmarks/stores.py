"""What one `validate` and one `refresh` cost on every store, beside the memory store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import median

from benchmarks.backends import Backend, backends, counted
from benchmarks.isolated import isolated
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.sessions import FakeClock, created, manager_of
from mcp_tornado.sessions import Session, SessionManager
from mcp_tornado.stores.plugins import open_store

PER_ROUND = 20
AT_ONCE = 50
"""How many tasks fill a store."""


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
                for operation in OPERATIONS:
                    taken = await _time_of_one(store, operation)
                    times.setdefault((store.backend.name, operation.name), []).append(taken)
        trips = {(store.backend.name, name): count for store in filled for name, count in await _trips(store, clock)}
        return [Figure(*key, median(taken), trips.get(key)) for key, taken in times.items()]


@dataclass(frozen=True, slots=True)
class _Operation:
    """What is measured, done to a session that was last seen so many seconds ago."""

    name: str
    call: Callable[[SessionManager, str, Session], Awaitable[object]]
    unseen: float = 0.0


OPERATIONS = (
    _Operation("validate", lambda manager, session_id, _: manager.validate(session_id)),
    _Operation("refresh, throttled", lambda manager, _, session: manager.refresh(session)),
    _Operation("refresh that writes", lambda manager, _, session: manager.refresh(session), unseen=60.0),
)


@dataclass(frozen=True, slots=True)
class _Filled:
    """A store with sessions."""

    backend: Backend
    manager: SessionManager
    ids: Sequence[str]
    choose: random.Random

    async def chosen(self, operation: _Operation) -> list[tuple[str, Session]]:
        """Return some sessions with their ids, as they are to be for an operation."""
        ids = self.choose.choices(self.ids, k=PER_ROUND)
        unseen = timedelta(seconds=operation.unseen)
        sessions = [await self.manager.validate(session_id) for session_id in ids]
        return [
            (session_id, replace(session, last_seen_at=session.last_seen_at - unseen))
            for session_id, session in zip(ids, sessions, strict=True)
        ]


@asynccontextmanager
async def _filled(backend: Backend, clock: FakeClock, count: int) -> AsyncGenerator[_Filled]:
    async with open_store(backend.at(backend.port), {}, clock) as store:
        manager = manager_of(store, clock)

        async def fill(number: int) -> list[str]:
            share = count // AT_ONCE + (number < count % AT_ONCE)
            return [session_id async for session_id in created(manager, clock, share)]

        ids = [session_id for made in await asyncio.gather(*map(fill, range(AT_ONCE))) for session_id in made]
        yield _Filled(backend, manager, ids, random.Random(0))


async def _time_of_one(store: _Filled, operation: _Operation) -> float:
    chosen = await store.chosen(operation)
    started = time.perf_counter()
    for session_id, session in chosen:
        await operation.call(store.manager, session_id, session)
    return (time.perf_counter() - started) / PER_ROUND


async def _trips(store: _Filled, clock: FakeClock) -> list[tuple[str, float]]:
    """Count the round trips of each operation, through a proxy."""
    if store.backend.port is None:
        return []
    found: list[tuple[str, float]] = []
    async with counted(store.backend.port) as (port, trips), open_store(store.backend.at(port), {}, clock) as other:
        manager = manager_of(other, clock)
        for operation in OPERATIONS:
            chosen = await store.chosen(operation)
            before = trips.count
            for session_id, session in chosen:
                await operation.call(manager, session_id, session)
            found.append((operation.name, (trips.count - before) / PER_ROUND))
    return found
