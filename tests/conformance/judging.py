"""The problems in the results of the suite: scenarios that fail without a known reason, and outdated reasons."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.conformance.hosts import Host
from tests.conformance.suite import Outcome, ScenarioSet, Verdict

KNOWN: Final = Path(__file__).with_name("known.toml")


@dataclass(frozen=True, slots=True)
class Run:
    """The outcomes of a set of scenarios on a host."""

    host: Host
    scenarios: ScenarioSet
    outcomes: Mapping[str, Outcome]
    scored: frozenset[str]
    """The scenarios that the revision of the set requires; empty if the set is not made of requirements."""

    def score(self) -> str:
        """Return `passed/counted`; the scored scenarios count, or all scenarios if none is scored."""
        counted = self.scored or self.outcomes.keys()
        passed = sum(self.outcomes[name].verdict is Verdict.PASSED for name in counted)
        return f"{passed}/{len(counted)}"


def load_known_reasons() -> dict[str, str]:
    """Return the scenarios that may fail or be skipped, each with its reason."""
    groups = tomllib.loads(KNOWN.read_text())["scenarios"]
    return {name: group["reason"].strip() for group in groups for name in group["names"]}


def find_problems(runs: Sequence[Run], reasons: Mapping[str, str]) -> list[str]:
    """Return the problems of the runs on mcp-tornado; failures of the control are none.

    Args:
        runs: The runs.
        reasons: The known reasons, as `load_known_reasons` returns them.
    """
    ours = [run for run in runs if run.host.is_ours]
    scored = frozenset[str]().union(*(run.scored for run in runs))
    problems = [f"{KNOWN.name}: {name} is scored, so it must pass" for name in sorted(scored & reasons.keys())]
    for run in ours:
        for name, outcome in sorted(run.outcomes.items()):
            if outcome.verdict is not Verdict.PASSED and name not in reasons:
                failures = "".join(f"\n    {failure}" for failure in outcome.failures)
                problems.append(f"{run.host.name}, {run.scenarios.name}: {name} {outcome.verdict}{failures}")
    verdicts = [(name, outcome.verdict) for run in ours for name, outcome in run.outcomes.items()]
    not_passed = {name for name, verdict in verdicts if verdict is not Verdict.PASSED}
    outdated = {name for name, _ in verdicts if name in reasons} - not_passed
    problems += [f"{KNOWN.name}: {name} passes, so its reason is outdated" for name in sorted(outdated)]
    return problems


def find_unused_reasons(runs: Sequence[Run], reasons: Mapping[str, str]) -> list[str]:
    """Return a problem for each reason whose scenario is in no run."""
    ran = {name for run in runs for name in run.outcomes}
    return [
        f"{KNOWN.name}: the suite has no scenario {name}, so its reason is outdated"
        for name in sorted(reasons.keys() - ran)
    ]
