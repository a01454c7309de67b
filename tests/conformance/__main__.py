"""`python -m tests.conformance`: run the whole official conformance suite, print the scores, and exit with 1 if a
scenario does not pass on mcp-tornado and is not in known.toml."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Final

import anyio

from tests.conformance import suite
from tests.conformance.hosts import HOSTS
from tests.conformance.judging import Run, find_problems, find_unused_reasons, load_known_reasons
from tests.javascript import tools

NOTE: Final = """\
mcp-tornado and the SDK serve the same file, without options. Two processes are behind a load balancer that ignores
sessions. Of the requirements, only the scored scenarios count. tests/conformance/known.toml lists the scenarios that
do not pass on mcp-tornado, with the reasons."""


def find_missing_program() -> str | None:
    """Return why the suite cannot run; `None` if it can."""
    if not tools.is_installed():
        return "the conformance suite is not installed, and npm could not install it; npm needs access to its registry"
    if shutil.which("redis-server") is None:
        return "redis-server is not on the PATH; two processes share their sessions in it"
    return None


async def run_everything() -> list[Run]:
    """Run all sets of scenarios on all hosts."""
    runs: list[Run] = []
    for host in HOSTS:
        async with host.serving() as url:
            for scenarios in suite.ALL_SETS:
                print(f"{host.name}: {scenarios.name} …", file=sys.stderr, flush=True)
                runs.append(Run(host, scenarios, await suite.run(scenarios, url), scenarios.scored()))
    return runs


def format_table(runs: Sequence[Run]) -> str:
    """Return a table with a row for each set and a column for each host; a cell is `passed/counted`."""
    scores = {(run.scenarios.name, run.host.name): run.score() for run in runs}
    width = max(len(scenarios.name) for scenarios in suite.ALL_SETS)
    lines = [f"{'passed of all':{width}}" + "".join(f"  {host.name:>24}" for host in HOSTS)]
    for scenarios in suite.ALL_SETS:
        cells = "".join(f"  {scores[scenarios.name, host.name]:>24}" for host in HOSTS)
        lines.append(f"{scenarios.name:{width}}{cells}")
    return "\n".join(lines)


def main() -> int:
    if (reason := find_missing_program()) is not None:
        print(f"the conformance suite cannot run: {reason}", file=sys.stderr)
        return 1
    runs, reasons = anyio.run(run_everything), load_known_reasons()
    print(f"\n@modelcontextprotocol/conformance {suite.version()}, mcp {version_of('mcp')}\n\n{format_table(runs)}\n")
    print(NOTE)
    for run in runs:
        for name, outcome in run.outcomes.items():
            for warning in outcome.warnings if run.host.is_ours else ():
                print(f"recommended: {run.host.name}, {run.scenarios.name}: {name}: {warning}")
    problems = find_problems(runs, reasons) + find_unused_reasons(runs, reasons)
    print("\n".join(f"PROBLEM: {line}" for line in problems) or "no problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
