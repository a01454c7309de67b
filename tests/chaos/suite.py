"""One run of the suite: processes over a store, the proxy, the clients, the disturbances, the audit, the verdict."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import orjson

from tests.chaos import ledger
from tests.chaos.audit import audit
from tests.chaos.clients import CALL_LIMIT, World, http_transport, run_clients
from tests.chaos.faults import Fault, Row
from tests.chaos.processes import Served
from tests.chaos.proxy import Proxy
from tests.chaos.records import Exchange
from tests.chaos.schedule import Disturber, draw_schedule
from tests.chaos.stores import STORES, Store

_IN_MEMORY: Final = Path("/dev/shm")
"""Where data is kept if that can be had: a busy disk takes seconds to sync."""

_SETTINGS: Final = {
    "LOG__LEVEL": "INFO",
    "LOG__FORMAT": "json",
    "SERVER__SHUTDOWN_GRACE_SECONDS": 3,
    "EVENTS__RETRY_MILLISECONDS": 200,
    "EVENTS__STREAM_AFTER_SECONDS": 0.5,
}
_SHOWN: Final = 5
"""So many faults of each kind are shown in full."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run."""

    store: str
    seed: int
    seconds: float
    clients: int
    processes: int

    def __str__(self) -> str:
        return (
            f"{self.store}: {self.clients} clients, {self.processes} processes, {self.seconds:g} seconds, "
            f"--seed {self.seed}"
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    faults: list[Fault]
    numbers: dict[str, int]
    notes: Counter[str]
    complaints: list[str]

    @property
    def passed(self) -> bool:
        return not self.faults and not self.complaints


@contextmanager
def _quiet(name: str) -> Generator[None]:
    """Log nothing by the SDK's client, which tells of each broken connection; the proxy has recorded it."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


async def run(plan: Plan, say: Callable[[str], None]) -> Result:
    """Run the suite once, and say what happens as it does."""
    random = Random(plan.seed)
    schedule = draw_schedule(random, plan.seconds, plan.processes)
    say("\n".join(map(str, [plan, *schedule])))
    with (
        _quiet("mcp"),
        tempfile.TemporaryDirectory(prefix="chaos-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder,
    ):
        async with _store(plan, Path(folder)) as store, _served(plan, store, Path(folder)) as processes:
            async with Proxy([process.port for process in processes]) as proxy, http_transport() as http:
                world = World(proxy.url, http, pause=plan.clients / 30)
                disturber = Disturber(processes, store, proxy.now)
                clients = asyncio.create_task(run_clients(world, random, plan.clients))
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(disturber.run(schedule))
                        tasks.create_task(asyncio.sleep(plan.seconds))
                    say(f"{proxy.now():.1f} s: all is up again; the clients come to an end")
                    world.stop.set()
                    done, _ = await asyncio.wait({clients}, timeout=CALL_LIMIT + 10)
                    for task in done:
                        task.result()
                finally:
                    clients.cancel()
                    await asyncio.gather(clients, return_exceptions=True)
                say(f"{proxy.now():.1f} s: audit")
                await audit(world, proxy.records)
                say(f"{proxy.now():.1f} s: done")
            records = sorted(proxy.records, key=lambda exchange: exchange.number)
            return _judged(plan, records, disturber, world, [process.log for process in processes])


@asynccontextmanager
async def _store(plan: Plan, folder: Path) -> AsyncGenerator[Store]:
    store = STORES[plan.store](folder)
    try:
        await store.start()
        yield store
    finally:
        store.end()


@asynccontextmanager
async def _served(plan: Plan, store: Store, folder: Path) -> AsyncGenerator[list[Served]]:
    settings = {**_SETTINGS, "SESSIONS__STORE": store.url}
    processes = [Served(number, folder, settings) for number in range(plan.processes)]
    try:
        for process in processes:
            await process.start()
        yield processes
    finally:
        for process in processes:
            process.end()


def _judged(plan: Plan, records: list[Exchange], disturber: Disturber, world: World, logs: list[Path]) -> Result:
    faults = ledger.judge(records, disturber.pauses, processes=plan.processes)
    numbers = {**dict(sorted(disturber.done.items())), **ledger.counts(records)}
    for log in logs:
        world.notes.update(_complaints_in(log))
    return Result(faults, numbers, world.notes, world.complaints)


def _complaints_in(log: Path) -> list[str]:
    """Return what a process complained of in its log: the level, the event and the exception, if there was one."""
    found: list[str] = []
    for text in log.read_text(errors="replace").splitlines():
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError:
            found.append(f"logged: {text[:100]}")
            continue
        if line["level"] not in ("debug", "info"):
            reason = line.get("exception", "").strip().rpartition("\n")[2] or line.get("reason", "")
            found.append(f"logged: {line['level']} {line['event']} {reason}"[:140])
    return found


def told(result: Result) -> str:
    """Return the table, what clients noticed, and the first faults of each kind with the records that show them."""
    lines = [ledger.report(result.faults, result.numbers), "", "what clients and logs tell:"]
    lines += [f"  {count:>6} {note}" for note, count in sorted(result.notes.items())]
    lines += [f"complaint of a client: {complaint}" for complaint in result.complaints[:_SHOWN]]
    shown: Counter[Row] = Counter()
    for fault in result.faults:
        shown[fault.row] += 1
        if shown[fault.row] <= _SHOWN:
            lines += ["", f"{fault.row.upper()}: {fault.what}", *(f"    {each}" for each in fault.shown_by)]
    return "\n".join(lines)
