"""What is done to the processes and the store, and when: drawn from a seed, printed, and carried out."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final

from tests.chaos.processes import Served
from tests.chaos.records import Pause
from tests.chaos.stores import Store


class Kind(StrEnum):
    """What can be done."""

    KILL = "kill"
    STOP = "stop"
    DRAIN = "drain"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Action:
    """One disturbance."""

    at: float
    """Seconds after the beginning."""
    kind: Kind
    process: int | None
    """Which process; `None` for the store."""
    seconds: float
    """How long it is away before it is started again or goes on."""
    hard: bool = False
    """Whether the store is killed, and not asked to end."""

    def __str__(self) -> str:
        what = f"process {self.process}" if self.process is not None else "hard" if self.hard else "soft"
        return f"{self.at:7.2f} {self.kind:<5} {what} for {self.seconds:.2f} s"


STOP_BOUND: Final = 10.0
"""Seconds after which a process that does not answer is taken for dead."""
_FIRST: Final = 2.0
_GAP: Final = (1.5, 4.0)
_WEIGHTS: Final = {Kind.KILL: 4, Kind.STOP: 3, Kind.DRAIN: 3, Kind.STORE: 2}
_AWAY: Final = {Kind.KILL: (0.1, 1.0), Kind.STOP: (1.0, 4.0), Kind.DRAIN: (0.0, 0.5), Kind.STORE: (0.5, 4.5)}
_REST: Final = 5.0
_LONG_STOP_FROM: Final = 45.0
"""A run of fewer seconds is too short for a process to be stopped beyond the bound."""


def draw_schedule(random: Random, seconds: float, processes: int) -> list[Action]:
    """Draw what happens in so many seconds: something of every kind first, then anything, and one stop that is long.

    A process that was disturbed has some time to come back before it is disturbed again.
    """
    kinds = list(Kind)
    random.shuffle(kinds)
    rested = dict.fromkeys(range(processes), 0.0)
    actions: list[Action] = []
    at = _FIRST
    long_stop_due = seconds >= _LONG_STOP_FROM
    while at < seconds - 2:
        if long_stop_due and at > seconds / 3:
            kinds.append(Kind.STOP)
        kind = kinds.pop() if kinds else random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        away = random.uniform(*_AWAY[kind])
        if long_stop_due and at > seconds / 3:
            away, long_stop_due = STOP_BOUND + away, False
        process = None
        if kind is not Kind.STORE:
            free = [number for number, since in rested.items() if since <= at] or [min(rested, key=rested.__getitem__)]
            process = random.choice(free)
            rested[process] = at + away + _REST
        actions.append(Action(at, kind, process, away, random.random() < 0.5))
        at += random.uniform(*_GAP)
    return actions


@dataclass
class Disturber:
    """Carries out a schedule. One process lives at any time, and nothing is disturbed twice at once."""

    processes: Sequence[Served]
    store: Store
    now: Callable[[], float]
    """Tells the time as the records have it."""
    done: Counter[str] = field(default_factory=Counter[str])
    """How often what was done."""
    pauses: list[Pause] = field(default_factory=list[Pause])
    """When processes were stopped, and the store was away."""

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(max(1, len(self.processes) - 1))
        self._store_lock = asyncio.Lock()

    async def run(self, actions: Sequence[Action]) -> None:
        """Carry out the schedule, and return when everything is up again."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for action in actions:
                await asyncio.sleep(max(0.0, begin + action.at - loop.time()))
                tasks.create_task(self._carry_out(action))

    async def _carry_out(self, action: Action) -> None:
        if action.process is None:
            async with self._store_lock:
                began = self.now()
                await self.store.interrupt(action.seconds, hard=action.hard)
                self.pauses.append(Pause(None, began, self.now()))
        else:
            process = self.processes[action.process]
            async with self._places, process.lock:
                began = self.now()
                await {Kind.KILL: _kill, Kind.STOP: _stop, Kind.DRAIN: _drain}[action.kind](process, action.seconds)
                if action.kind is Kind.STOP:
                    self.pauses.append(Pause(action.process, began, self.now()))
        self.done[_COUNTED[action.kind]] += 1


_COUNTED: Final = {Kind.KILL: "kills", Kind.STOP: "stops", Kind.DRAIN: "drains", Kind.STORE: "store restarts"}


async def _kill(process: Served, seconds: float) -> None:
    process.signal(signal.SIGKILL)
    await process.wait()
    await asyncio.sleep(seconds)
    await process.start()


async def _stop(process: Served, seconds: float) -> None:
    process.signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    process.signal(signal.SIGCONT)
    await process.start()


async def _drain(process: Served, seconds: float) -> None:
    process.signal(signal.SIGTERM)
    code = await process.wait()
    if code != 0:
        raise RuntimeError(f"process {process.number} drained and ended with {code}: see {process.log}")
    await asyncio.sleep(seconds)
    await process.start()
