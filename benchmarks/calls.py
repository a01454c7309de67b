"""Tool calls per second, compared with the same server object on the transport of the SDK."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median

from benchmarks.isolated import start_fresh_process
from benchmarks.load import Load, drive
from benchmarks.report import Line, at_least
from benchmarks.scale import Scale
from benchmarks.servers import OURS_DEFAULT, OURS_JSON, SDK, Contender, run_server

GOAL_RATIO = 1.5
CONTENDERS = (OURS_JSON, OURS_DEFAULT, SDK)


def run(scale: Scale) -> Iterator[Line]:
    """Load the contenders in turn, each in a process of its own, and compare their medians."""
    server_core, load_core = _choose_cores()
    pinned = f"{server_core} and {load_core}" if server_core is not None else "not pinned"
    yield Line("cores that the servers and the load generator are kept on", pinned)
    yield Line(f"uvicorn {version('uvicorn')} works with", _describe_uvicorn())
    yield Line("sessions, each on a connection of its own", f"{scale.connections}")
    loads = measure(scale, server_core, load_core)
    sdk = loads[SDK.name]
    for contender in CONTENDERS:
        yield from _describe(contender, loads[contender.name])
    for contender in (OURS_JSON, OURS_DEFAULT):
        ours = loads[contender.name]
        ratio = _median_rate(ours) / _median_rate(sdk)
        yield at_least(f"{contender.name}: calls per second, ratio", ratio, GOAL_RATIO, "times")
        cpu_ratio = _median_cpu(sdk) / _median_cpu(ours)
        yield at_least("  the same by CPU time per call", cpu_ratio, GOAL_RATIO, "times")
    every = [load for rounds in loads.values() for load in rounds]
    yield Line("load generator, at the most busy for", f"{max(load.own_share for load in every):.0%} of a core")
    yield Line("servers, disturbed by others where less than about 100%", _format_shares(every))


def measure(scale: Scale, server_core: int | None, load_core: int | None) -> dict[str, list[Load]]:
    """Return the rounds of each contender, by its name."""
    rounds: dict[str, list[Load]] = {contender.name: [] for contender in CONTENDERS}
    with ExitStack() as stack:
        servers = {each.name: stack.enter_context(run_server(each, server_core)) for each in CONTENDERS}
        generator = stack.enter_context(start_fresh_process())

        def load(name: str, seconds: float) -> Load:
            return generator.submit(drive, servers[name], scale.connections, seconds, load_core).result()

        for name in servers:
            load(name, scale.call_seconds / 3)  # warm up
        for _ in range(scale.call_rounds):
            for name in servers:
                rounds[name].append(load(name, scale.call_seconds))
    return rounds


def _choose_cores() -> tuple[int, int] | tuple[None, None]:
    """Return a core for the servers and one for the load generator; `None` if processes cannot be pinned to cores."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def _describe_uvicorn() -> str:
    """Return the event loop and the HTTP parser that uvicorn chooses from the installed ones."""
    loop = "uvloop" if find_spec("uvloop") else "asyncio"
    parser = "httptools" if find_spec("httptools") else "h11"
    return f"{loop}, {parser}"


def _describe(contender: Contender, rounds: list[Load]) -> Iterator[Line]:
    rates = [load.calls_per_second for load in rounds]
    yield Line(f"{contender.name}: median of {len(rounds)} rounds", f"{median(rates):,.0f} calls/s")
    yield Line("  slowest and fastest round", f"{min(rates):,.0f} to {max(rates):,.0f} calls/s")
    yield Line("  server's CPU time per call", f"{_median_cpu(rounds) * 1e6:.0f} us")


def _median_rate(rounds: list[Load]) -> float:
    return median(load.calls_per_second for load in rounds)


def _format_shares(loads: list[Load]) -> str:
    shares = [load.server_share for load in loads]
    return f"{min(shares):.0%} to {max(shares):.0%}"


def _median_cpu(rounds: list[Load]) -> float:
    return median(load.cpu_per_call for load in rounds)
