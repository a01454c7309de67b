"""The schedule of faults, which is drawn from a seed, and the injector that carries it out."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final

from tests.chaos.processes import ServerProcess
from tests.chaos.records import Outage
from tests.chaos.stores import Store


class FaultKind(StrEnum):
    """The kinds of faults."""

    KILL = "kill"
    STOP = "stop"
    DRAIN = "drain"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a process or of the store."""

    at: float
    """Seconds after the start of the schedule."""
    kind: FaultKind
    process: int | None
    """The number of the process; `None` for the store."""
    seconds: float
    """How long the process or the store is away before it is started again or continues."""
    hard: bool = False
    """Whether the store is killed instead of stopped."""

    def __str__(self) -> str:
        target = f"process {self.process}" if self.process is not None else "hard" if self.hard else "soft"
        return f"{self.at:7.2f} {self.kind:<5} {target} for {self.seconds:.2f} s"


DEATH_TIMEOUT_SECONDS: Final = 10.0
"""A process that is stopped for longer counts as dead for the other processes."""
_FIRST_FAULT_SECONDS: Final = 2.0
_GAP_SECONDS: Final = (1.5, 4.0)
"""Shortest and longest time between the starts of two faults."""
_WEIGHTS: Final = {FaultKind.KILL: 4, FaultKind.STOP: 3, FaultKind.DRAIN: 3, FaultKind.STORE: 2}
_AWAY_SECONDS: Final = {
    FaultKind.KILL: (0.1, 1.0),
    FaultKind.STOP: (1.0, 4.0),
    FaultKind.DRAIN: (0.0, 0.5),
    FaultKind.STORE: (0.5, 4.5),
}
"""Shortest and longest absence for each kind of fault."""
_RECOVERY_SECONDS: Final = 5.0
"""Time after a fault of a process in which it gets no further fault, if another process can get it."""
_LONG_STOP_MIN_RUN_SECONDS: Final = 45.0
"""Only a run of at least this length stops one process beyond `DEATH_TIMEOUT_SECONDS`."""


def draw_schedule(random: Random, seconds: float, processes: int) -> list[Fault]:
    """Return a random schedule: first one fault of each kind, then faults of random kinds, among them one long stop.

    After a fault, a process gets some time to recover before its next fault.
    """
    kinds = list(FaultKind)
    random.shuffle(kinds)
    recovered_at = dict.fromkeys(range(processes), 0.0)
    faults: list[Fault] = []
    at = _FIRST_FAULT_SECONDS
    long_stop_due = seconds >= _LONG_STOP_MIN_RUN_SECONDS
    while at < seconds - 2:
        if long_stop_due and at > seconds / 3:
            kinds.append(FaultKind.STOP)
        kind = kinds.pop() if kinds else random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        away = random.uniform(*_AWAY_SECONDS[kind])
        if long_stop_due and at > seconds / 3:
            away, long_stop_due = DEATH_TIMEOUT_SECONDS + away, False
        process = None
        if kind is not FaultKind.STORE:
            free = [number for number, since in recovered_at.items() if since <= at]
            process = random.choice(free or [min(recovered_at, key=recovered_at.__getitem__)])
            recovered_at[process] = at + away + _RECOVERY_SECONDS
        faults.append(Fault(at, kind, process, away, random.random() < 0.5))
        at += random.uniform(*_GAP_SECONDS)
    return faults


@dataclass
class FaultInjector:
    """Carries out a schedule. At least one process runs at any time, and each target has one fault at a time."""

    processes: Sequence[ServerProcess]
    store: Store
    now: Callable[[], float]
    """Returns the time on the clock of the records."""
    counts: Counter[str] = field(default_factory=Counter[str])
    """The number of faults of each kind."""
    outages: list[Outage] = field(default_factory=list[Outage])
    """The periods in which processes were stopped or the store was unreachable."""

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(max(1, len(self.processes) - 1))
        self._store_lock = asyncio.Lock()

    async def run(self, schedule: Sequence[Fault]) -> None:
        """Carry out the schedule and return when all processes and the store are up again."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for fault in schedule:
                await asyncio.sleep(max(0.0, begin + fault.at - loop.time()))
                tasks.create_task(self._inject(fault))

    async def _inject(self, fault: Fault) -> None:
        if fault.process is None:
            async with self._store_lock:
                began = self.now()
                await self.store.interrupt(fault.seconds, hard=fault.hard)
                self.outages.append(Outage(None, began, self.now()))
        else:
            process = self.processes[fault.process]
            inject = {FaultKind.KILL: _kill, FaultKind.STOP: _stop, FaultKind.DRAIN: _drain}[fault.kind]
            async with self._slots, process.lock:
                began = self.now()
                await inject(process, fault.seconds)
                if fault.kind is FaultKind.STOP:
                    self.outages.append(Outage(fault.process, began, self.now()))
        self.counts[_COUNT_NAMES[fault.kind]] += 1


_COUNT_NAMES: Final = {
    FaultKind.KILL: "kills",
    FaultKind.STOP: "stops",
    FaultKind.DRAIN: "drains",
    FaultKind.STORE: "store restarts",
}


async def _kill(process: ServerProcess, seconds: float) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await asyncio.sleep(seconds)
    await process.start()


async def _stop(process: ServerProcess, seconds: float) -> None:
    process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    process.send_signal(signal.SIGCONT)
    await process.start()


async def _drain(process: ServerProcess, seconds: float) -> None:
    process.send_signal(signal.SIGTERM)
    code = await process.wait()
    if code != 0:
        raise RuntimeError(f"process {process.number} drained and ended with {code}: see {process.log}")
    await asyncio.sleep(seconds)
    await process.start()
