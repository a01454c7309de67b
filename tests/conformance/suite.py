"""Runs the official conformance suite against a server, and reads what it found from the files that it writes."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import anyio
import yaml

from tests.javascript.tools import DIRECTORY, program

_PACKAGE: Final = DIRECTORY / "node_modules" / "@modelcontextprotocol" / "conformance"
_AT_THE_END: Final = "=== SUMMARY ==="
"""What the suite prints when all scenarios have run."""
_OF_THE_SUITE: Final = frozenset({"wire-schema-valid"})
"""Checks that every scenario makes besides its own."""
_LIMIT: Final = 600.0
"""Seconds for a set; each scenario has 30 of its own."""


class Verdict(StrEnum):
    """What became of a scenario."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The suite made none of its checks: the server does not have what they are about."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the suite says of one scenario."""

    verdict: Verdict
    failures: tuple[str, ...] = ()
    """The checks that failed, each with what the suite says of it."""
    warnings: tuple[str, ...] = ()
    """The same of what the specification only recommends: a scenario passes all the same."""


@dataclass(frozen=True, slots=True)
class ScenarioSet:
    """Scenarios that the suite runs in one go."""

    name: str
    arguments: tuple[str, ...]
    """What picks them on its command line."""
    revision: str | None = None
    """The revision whose requirements they are, where they are that."""

    def scored(self) -> frozenset[str]:
        """Return the scenarios that the revision demands of a server; the rest of the set runs beside them."""
        if self.revision is None:
            return frozenset()
        demanded = yaml.safe_load((_PACKAGE / "requirements" / f"{self.revision}.yaml").read_text())
        return frozenset(demanded["server"])


def _required(revision: str) -> ScenarioSet:
    return ScenarioSet(f"requirements {revision}", ("--requirements", revision), revision)


def _all_at(revision: str) -> ScenarioSet:
    return ScenarioSet(f"all scenarios at {revision}", ("--suite", "all", "--spec-version", revision))


REQUIREMENT_SETS: Final = [_required("2025-11-25"), _required("2026-07-28")]
ALL_SETS: Final = [
    *REQUIREMENT_SETS,
    *map(_all_at, ("2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")),
    ScenarioSet("all scenarios and extensions", ("--suite", "all")),
]


class SuiteFailed(Exception):
    """The suite did not run to its end; the message is what it printed."""


async def run(scenarios: ScenarioSet, url: str) -> dict[str, Outcome]:
    """Run a set of scenarios against a server, and return what became of each, by its name.

    Raises:
        SuiteFailed: See there.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        command = program("conformance", "server", "--url", url, "--output-dir", directory, *scenarios.arguments)
        with anyio.fail_after(_LIMIT):
            done = await anyio.run_process(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False)
        printed = done.stdout.decode(errors="replace")
        outcomes = results_in(Path(directory))
    missing = scenarios.scored() - outcomes.keys()
    if missing or not outcomes or _AT_THE_END not in printed:
        raise SuiteFailed(f"{scenarios.name} did not run to the end; missing: {sorted(missing)}\n{printed}")
    return outcomes


def version() -> str:
    """Return the suite's version."""
    return str(json.loads((_PACKAGE / "package.json").read_text())["version"])


def results_in(directory: Path) -> dict[str, Outcome]:
    """Return what became of each scenario, as the suite left it in its output directory."""
    return {_scenario_of(each): _outcome_of(each) for each in directory.iterdir()}


def _scenario_of(directory: Path) -> str:
    """Return whose checks are in a directory: it has the scenario's name and the time in its own."""
    return re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\d-]+Z$", "", directory.name)


def _outcome_of(directory: Path) -> Outcome:
    file = directory / "checks.json"
    if not file.exists():
        return Outcome(Verdict.FAILED, ("the scenario broke off",))
    checks = json.loads(file.read_text())
    failures, warnings = _with_status("FAILURE", checks), _with_status("WARNING", checks)
    if failures:
        return Outcome(Verdict.FAILED, failures, warnings)
    own = [check for check in checks if check["id"] not in _OF_THE_SUITE]
    were_made = any(check["status"] in ("SUCCESS", "WARNING") for check in own)
    return Outcome(Verdict.PASSED if were_made else Verdict.SKIPPED, warnings=warnings)


def _with_status(status: str, checks: list[dict[str, Any]]) -> tuple[str, ...]:
    found = [check for check in checks if check["status"] == status]
    return tuple(f"{check['id']}: {check.get('errorMessage') or check['description']}" for check in found)
