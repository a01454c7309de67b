"""`python -m tests.conformance`: run all of the official conformance suite, print how much passed, and fail if
anything of ours that did not pass is not in known.toml."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Final

import anyio

from tests.conformance import suite
from tests.conformance.hosts import HOSTS
from tests.conformance.judging import Run, complaints, known_reasons, never_ran
from tests.javascript import tools

NOTE: Final = """\
Both serve the same file, as it is and without options. Two processes are behind a round robin that knows no sessions.
Of requirements, the scored scenarios count. What does not pass on mcp-tornado, and why: tests/conformance/known.toml"""


def missing() -> str | None:
    """Return what is missing to run anything, `None` if nothing is."""
    if not tools.is_installed():
        return "the conformance suite is not installed, and npm could not install it: that takes the npm registry"
    if shutil.which("redis-server") is None:
        return "redis-server is not on the PATH: two processes share their sessions there"
    return None


async def run_everything() -> list[Run]:
    """Run all sets on all hosts."""
    runs: list[Run] = []
    for host in HOSTS:
        async with host.serving() as url:
            for scenarios in suite.ALL_SETS:
                print(f"{host.name}: {scenarios.name} …", file=sys.stderr, flush=True)
                runs.append(Run(host, scenarios, await suite.run(scenarios, url), scenarios.scored()))
    return runs


def table(runs: Sequence[Run]) -> str:
    """Return the sets as rows, the hosts as columns, and in the cells how many passed of how many."""
    scores = {(run.scenarios.name, run.host.name): run.score() for run in runs}
    first = max(len(scenarios.name) for scenarios in suite.ALL_SETS)
    lines = [f"{'passed of all':{first}}" + "".join(f"  {host.name:>24}" for host in HOSTS)]
    for scenarios in suite.ALL_SETS:
        cells = "".join(f"  {scores[scenarios.name, host.name]:>24}" for host in HOSTS)
        lines.append(f"{scenarios.name:{first}}{cells}")
    return "\n".join(lines)


def main() -> int:
    if (reason := missing()) is not None:
        print(f"conformance cannot run: {reason}", file=sys.stderr)
        return 1
    runs, reasons = anyio.run(run_everything), known_reasons()
    print(f"\n@modelcontextprotocol/conformance {suite.version()}, mcp {version_of('mcp')}\n\n{table(runs)}\n")
    print(NOTE)
    for run in runs:
        for name, outcome in run.outcomes.items():
            for warning in outcome.warnings if run.host.is_ours else ():
                print(f"recommended: {run.host.name}, {run.scenarios.name}: {name}: {warning}")
    wrong = complaints(runs, reasons) + never_ran(runs, reasons)
    print("\n".join(f"WRONG: {line}" for line in wrong) or "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
