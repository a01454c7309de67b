"""One run of the suite: processes on a store, the proxy, clients, injected faults, the audit and the verdict."""

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
from tests.chaos.client_context import CALL_TIMEOUT_SECONDS, ClientContext
from tests.chaos.clients import run_clients
from tests.chaos.processes import ServerProcess
from tests.chaos.proxy import Proxy
from tests.chaos.records import Exchange
from tests.chaos.schedule import FaultInjector, draw_schedule
from tests.chaos.stores import STORES, Store
from tests.chaos.transports import open_transport
from tests.chaos.violations import Row, Violation

_MEMORY_DIRECTORY: Final = Path("/dev/shm")
"""Preferred place for the data, if it exists: a busy disk takes seconds to sync."""

_SETTINGS: Final = {
    "LOG__LEVEL": "INFO",
    "LOG__FORMAT": "json",
    "SERVER__SHUTDOWN_GRACE_SECONDS": 3,
    "EVENTS__RETRY_MILLISECONDS": 200,
    "EVENTS__STREAM_AFTER_SECONDS": 0.5,
}
_SHOWN_PER_ROW: Final = 5
"""The number of violations of each row that the report shows with their records."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a run."""

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
    """The result of a run."""

    violations: list[Violation]
    activity: dict[str, int]
    """Counts that show how much was tried."""
    observations: Counter[str]
    """What clients and logs reported and the records do not show."""
    wrong_results: list[str]
    """Results that clients got and that cannot be right."""

    @property
    def passed(self) -> bool:
        return not self.violations and not self.wrong_results


@contextmanager
def _silenced(name: str) -> Generator[None]:
    """Silence a logger. The SDK's client logs each broken connection, and the proxy has recorded it anyway."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


async def run(plan: Plan, print_line: Callable[[str], None]) -> Result:
    """Run the suite once and print its progress."""
    random = Random(plan.seed)
    schedule = draw_schedule(random, plan.seconds, plan.processes)
    print_line("\n".join(map(str, [plan, *schedule])))
    with (
        _silenced("mcp"),
        tempfile.TemporaryDirectory(
            prefix="chaos-", dir=_MEMORY_DIRECTORY if _MEMORY_DIRECTORY.is_dir() else None
        ) as directory,
    ):
        async with (
            _run_store(plan, Path(directory)) as store,
            _run_processes(plan, store, Path(directory)) as processes,
        ):
            async with Proxy([process.port for process in processes]) as proxy, open_transport() as http:
                context = ClientContext(proxy.url, http, pause_seconds=plan.clients / 30)
                injector = FaultInjector(processes, store, proxy.now)
                clients = asyncio.create_task(run_clients(context, random, plan.clients))
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(injector.run(schedule))
                        tasks.create_task(asyncio.sleep(plan.seconds))
                    print_line(f"{proxy.now():.1f} s: all processes and the store are up; the clients finish")
                    context.stop.set()
                    done, _ = await asyncio.wait({clients}, timeout=CALL_TIMEOUT_SECONDS + 10)
                    for task in done:
                        task.result()
                    if not done:
                        context.observations["clients that did not finish in time"] += 1
                finally:
                    clients.cancel()
                    await asyncio.gather(clients, return_exceptions=True)
                print_line(f"{proxy.now():.1f} s: audit")
                await audit(context, proxy.records)
                print_line(f"{proxy.now():.1f} s: done")
            records = sorted(proxy.records, key=lambda exchange: exchange.number)
            return _make_result(plan, records, injector, context, [process.log for process in processes])


@asynccontextmanager
async def _run_store(plan: Plan, directory: Path) -> AsyncGenerator[Store]:
    store = STORES[plan.store](directory)
    try:
        await store.start()
        yield store
    finally:
        store.close()


@asynccontextmanager
async def _run_processes(plan: Plan, store: Store, directory: Path) -> AsyncGenerator[list[ServerProcess]]:
    settings = {**_SETTINGS, "SESSIONS__STORE": store.url}
    processes = [ServerProcess(number, directory, settings) for number in range(plan.processes)]
    try:
        for process in processes:
            await process.start()
        yield processes
    finally:
        for process in processes:
            process.kill()


def _make_result(
    plan: Plan, records: list[Exchange], injector: FaultInjector, context: ClientContext, logs: list[Path]
) -> Result:
    violations = ledger.judge(records, injector.outages, processes=plan.processes)
    activity = {**dict(sorted(injector.counts.items())), **ledger.count_activity(records)}
    for log in logs:
        context.observations.update(_warnings_in(log))
    return Result(violations, activity, context.observations, context.wrong_results)


def _warnings_in(log: Path) -> list[str]:
    """Return the warnings and errors in the log of a process: the level, the event and the exception, if any."""
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


def format_result(result: Result) -> str:
    """Return the table, the observations, and the first violations of each row with the records that prove them."""
    lines = [ledger.format_table(result.violations, result.activity), "", "observed by clients and in logs:"]
    lines += [f"  {count:>6} {text}" for text, count in sorted(result.observations.items())]
    lines += [f"wrong result at a client: {text}" for text in result.wrong_results[:_SHOWN_PER_ROW]]
    shown: Counter[Row] = Counter()
    for violation in result.violations:
        shown[violation.row] += 1
        if shown[violation.row] <= _SHOWN_PER_ROW:
            evidence = (f"    {exchange}" for exchange in violation.evidence)
            lines += ["", f"{violation.row.upper()}: {violation.description}", *evidence]
    return "\n".join(lines)
