"""What is read from the suite's files, and what `make conformance` takes for wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.hosts import OURS_IN_ONE, OURS_IN_TWO, SDK_IN_TWO, Host
from tests.conformance.judging import Run, complaints, known_reasons, never_ran
from tests.conformance.suite import REQUIREMENT_SETS, Outcome, Verdict, results_in

PASSED = Outcome(Verdict.PASSED)
FAILED = Outcome(Verdict.FAILED, ("answers: got 404",))
SKIPPED = Outcome(Verdict.SKIPPED)


def run_of(host: Host, **outcomes: Outcome) -> Run:
    return Run(host, REQUIREMENT_SETS[0], outcomes, frozenset({"ping"}))


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        (["SUCCESS", "INFO", "SKIPPED"], PASSED),
        (["SUCCESS", "FAILURE"], Outcome(Verdict.FAILED, ("check-1: why",))),
        (["WARNING"], Outcome(Verdict.PASSED, warnings=("check-0: why",))),
        (["SKIPPED", "INFO"], SKIPPED),
        ([], SKIPPED),
        (None, Outcome(Verdict.FAILED, ("the scenario broke off",))),
    ],
)
def test_a_scenario_is_what_its_checks_are(tmp_path: Path, statuses: list[str] | None, outcome: Outcome) -> None:
    directory = tmp_path / "server-tools-list-2026-11-24T23-43-09-315Z"
    directory.mkdir()
    if statuses is not None:
        checks = [
            {"id": f"check-{number}", "status": status, "description": "what", "errorMessage": "why"}
            for number, status in enumerate(statuses)
        ]
        of_the_suite = {"id": "wire-schema-valid", "status": "SUCCESS", "description": "messages are valid"}
        (directory / "checks.json").write_text(json.dumps([*checks, of_the_suite]))
    assert results_in(tmp_path) == {"tools-list": outcome}


def test_whatever_does_not_pass_needs_a_reason() -> None:
    runs = [run_of(OURS_IN_ONE, ping=FAILED, tasks=FAILED, skills=SKIPPED), run_of(OURS_IN_TWO, ping=PASSED)]
    assert [run.score() for run in runs] == ["0/1", "1/1"]
    assert complaints(runs, {"tasks": "an extension"}) == [
        "mcp-tornado, 1 process, requirements 2025-11-25: ping failed\n    answers: got 404",
        "mcp-tornado, 1 process, requirements 2025-11-25: skills skipped",
    ]


def test_what_the_control_fails_at_is_not_ours() -> None:
    assert complaints([run_of(OURS_IN_TWO, ping=PASSED), run_of(SDK_IN_TWO, ping=FAILED)], {}) == []


def test_no_reason_excuses_a_scored_scenario() -> None:
    wrong = complaints([run_of(OURS_IN_TWO, ping=FAILED)], {"ping": "we do not feel like it"})
    assert wrong == ["known.toml: ping is scored, no reason excuses it"]


def test_a_reason_is_stale_where_its_scenario_passes() -> None:
    everywhere = [run_of(OURS_IN_ONE, ping=PASSED, tasks=PASSED), run_of(OURS_IN_TWO, ping=PASSED, tasks=PASSED)]
    assert complaints(everywhere, {"tasks": "why"}) == ["known.toml: tasks passes now, its reason is stale"]
    not_everywhere = [everywhere[0], run_of(OURS_IN_TWO, ping=PASSED, tasks=FAILED)]
    assert complaints(not_everywhere, {"tasks": "why"}) == []


def test_a_reason_is_stale_where_its_scenario_is_gone() -> None:
    runs = [run_of(OURS_IN_TWO, ping=PASSED)]
    assert complaints(runs, {"tasks": "why"}) == []
    assert never_ran(runs, {"tasks": "why"}) == ["known.toml: the suite has no tasks, its reason is stale"]


def test_every_reason_says_something() -> None:
    reasons = known_reasons()
    assert len(reasons) == 13
    assert all(reasons.values())
