"""`python -m benchmarks [--quick] [NAME ...]`: run the benchmarks, or some of them."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import time
from collections.abc import Sequence

import psutil

from benchmarks import calls, memory, processes, stores, sweep, validate, wakeups
from benchmarks.scale import FULL, QUICK, Scale

BENCHMARKS = {
    "memory": ("memory of idle sessions in the memory store", memory.run),
    "sweep": ("cleanup of expired sessions in the memory store", sweep.run),
    "validate": ("time of one validate, by the number of sessions", validate.run),
    "stores": ("one validate and one refresh on every store, beside the memory store", stores.run),
    "processes": ("one call after the other: what a shared store, a proxy and a second process add", processes.run),
    "wakeups": (
        "time from the append of an event to its arrival at a waiting process, on every shared store",
        wakeups.run,
    ),
    "calls": ("tools/call per second, beside the SDK's own transport", calls.run),
}


def main() -> None:
    """Run the named benchmarks. A missed goal is printed but is not a failure, because machines differ."""
    names, scale = _parse_arguments()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    print(f"Python {platform.python_version()}, {'full run' if scale is FULL else 'quick look, not for comparison'}")
    started = time.monotonic()
    verdicts = [verdict for name in names for verdict in _run(name, scale)]
    print(f"\n{sum(verdicts)} of {len(verdicts)} goals met, in {time.monotonic() - started:.0f} s")


def _parse_arguments() -> tuple[Sequence[str], Scale]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure mcp-tornado.")
    parser.add_argument("name", nargs="*", help=f"benchmarks to run, of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="measure less; all benchmarks take about a minute")
    arguments = parser.parse_args()
    for name in arguments.name:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark {name!r}; known are {', '.join(BENCHMARKS)}")
    return arguments.name or list(BENCHMARKS), QUICK if arguments.quick else FULL


def _run(name: str, scale: Scale) -> list[bool]:
    """Print each figure as soon as it is measured; return for each goal whether it was met."""
    title, benchmark = BENCHMARKS[name]
    print(f"\n{name}: {title}", flush=True)
    verdicts: list[bool] = []
    for line in benchmark(scale):
        print(line, flush=True)
        if line.met is not None:
            verdicts.append(line.met)
    return verdicts


def _exit(number: int, _frame: object) -> None:
    """Terminate all child processes, and exit."""
    for child in psutil.Process().children(recursive=True):
        child.terminate()
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
