"""Runs the official conformance suite against a server, and reads its results from the files that it writes."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import anyio
import yaml

from tests.javascript.tools import DIRECTORY, program

_PACKAGE: Final = DIRECTORY / "node_modules" / "@modelcontextprotocol" / "conformance"
_END_MARK: Final = "=== SUMMARY ==="
"""The suite prints this when all scenarios have run."""
_COMMON_CHECKS: Final = frozenset({"wire-schema-valid"})
"""The checks that every scenario makes in addition to its own."""
_TIMEOUT_SECONDS: Final = 600.0
"""Timeout of a set; the suite gives each scenario 30 s."""


class Verdict(StrEnum):
    """The result of a scenario."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The suite made none of the scenario's own checks, because the server does not have the feature."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one scenario."""

    verdict: Verdict
    failures: tuple[str, ...] = ()
    """The failed checks, each with the message of the suite."""
    warnings: tuple[str, ...] = ()
    """The same for recommendations of the specification; they do not fail a scenario."""


@dataclass(frozen=True, slots=True)
class ScenarioSet:
    """Scenarios that one run of the suite covers."""

    name: str
    arguments: tuple[str, ...]
    """The command-line arguments that select them."""
    revision: str | None = None
    """The revision whose requirements they are; `None` if they are not requirements."""

    def scored(self) -> frozenset[str]:
        """Return the scenarios of the set that the revision requires of a server."""
        if self.revision is None:
            return frozenset()
        required = yaml.safe_load((_PACKAGE / "requirements" / f"{self.revision}.yaml").read_text())
        return frozenset(required["server"])


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
    """The suite did not run to its end; the message contains its output."""


@contextmanager
def _fail_after_timeout(scenarios: ScenarioSet) -> Generator[None]:
    try:
        with anyio.fail_after(_TIMEOUT_SECONDS):
            yield
    except TimeoutError:
        raise SuiteFailed(f"{scenarios.name} did not end within {_TIMEOUT_SECONDS:g} s") from None


async def run(scenarios: ScenarioSet, url: str) -> dict[str, Outcome]:
    """Run a set of scenarios against a server, and return the outcomes by the names of the scenarios.

    Raises:
        SuiteFailed: The suite did not run to its end, or not in time.
    """
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        command = program("conformance", "server", "--url", url, "--output-dir", directory, *scenarios.arguments)
        with _fail_after_timeout(scenarios):
            completed = await anyio.run_process(
                command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False
            )
        output = completed.stdout.decode(errors="replace")
        outcomes = read_outcomes(Path(directory))
    missing = scenarios.scored() - outcomes.keys()
    if missing or not outcomes or _END_MARK not in output:
        raise SuiteFailed(f"{scenarios.name} did not run to the end; missing: {sorted(missing)}\n{output}")
    return outcomes


def version() -> str:
    """Return the suite's version."""
    return str(json.loads((_PACKAGE / "package.json").read_text())["version"])


def read_outcomes(directory: Path) -> dict[str, Outcome]:
    """Return the outcomes in an output directory of the suite, by the names of the scenarios."""
    return {_scenario_name(each): _read_outcome(each) for each in directory.iterdir()}


def _scenario_name(directory: Path) -> str:
    """Return the scenario of a directory, whose name contains the scenario and the time."""
    return re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\d-]+Z$", "", directory.name)


def _read_outcome(directory: Path) -> Outcome:
    file = directory / "checks.json"
    if not file.exists():
        return Outcome(Verdict.FAILED, ("the scenario was aborted",))
    checks = json.loads(file.read_text())
    failures, warnings = _with_status("FAILURE", checks), _with_status("WARNING", checks)
    if failures:
        return Outcome(Verdict.FAILED, failures, warnings)
    own = [check for check in checks if check["id"] not in _COMMON_CHECKS]
    has_own_result = any(check["status"] in ("SUCCESS", "WARNING") for check in own)
    return Outcome(Verdict.PASSED if has_own_result else Verdict.SKIPPED, warnings=warnings)


def _with_status(status: str, checks: list[dict[str, Any]]) -> tuple[str, ...]:
    found = [check for check in checks if check["status"] == status]
    return tuple(f"{check['id']}: {check.get('errorMessage') or check['description']}" for check in found)
