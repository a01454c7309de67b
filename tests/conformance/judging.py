"""What is wrong with what the suite found: scenarios of ours that do not pass without a reason, and stale reasons."""

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
    """What became of a set of scenarios on a host."""

    host: Host
    scenarios: ScenarioSet
    outcomes: Mapping[str, Outcome]
    scored: frozenset[str]
    """The scenarios of the set that its revision demands; empty for sets that demand nothing."""

    def score(self) -> str:
        """Return how many passed of those that count: the scored ones, or all where none are."""
        counted = self.scored or self.outcomes.keys()
        passed = sum(self.outcomes[name].verdict is Verdict.PASSED for name in counted)
        return f"{passed}/{len(counted)}"


def known_reasons() -> dict[str, str]:
    """Return the scenarios that may fail or be skipped, each with the reason."""
    groups = tomllib.loads(KNOWN.read_text())["scenarios"]
    return {name: group["why"].strip() for group in groups for name in group["names"]}


def complaints(runs: Sequence[Run], reasons: Mapping[str, str]) -> list[str]:
    """Return all that is wrong; what only others than we fail at is not.

    Args:
        runs: What was run.
        reasons: See `known_reasons`.
    """
    ours = [run for run in runs if run.host.is_ours]
    scored = frozenset[str]().union(*(run.scored for run in runs))
    wrong = [f"{KNOWN.name}: {name} is scored, no reason excuses it" for name in sorted(scored & reasons.keys())]
    for run in ours:
        for name, outcome in sorted(run.outcomes.items()):
            if outcome.verdict is not Verdict.PASSED and name not in reasons:
                said = "".join(f"\n    {failure}" for failure in outcome.failures)
                wrong.append(f"{run.host.name}, {run.scenarios.name}: {name} {outcome.verdict}{said}")
    seen = [(name, outcome.verdict) for run in ours for name, outcome in run.outcomes.items()]
    not_passed = {name for name, verdict in seen if verdict is not Verdict.PASSED}
    stale = {name for name, _ in seen if name in reasons} - not_passed
    wrong += [f"{KNOWN.name}: {name} passes now, its reason is stale" for name in sorted(stale)]
    return wrong


def never_ran(runs: Sequence[Run], reasons: Mapping[str, str]) -> list[str]:
    """Return which reasons are for scenarios that no run had."""
    ran = {name for run in runs for name in run.outcomes}
    return [f"{KNOWN.name}: the suite has no {name}, its reason is stale" for name in sorted(reasons.keys() - ran)]
