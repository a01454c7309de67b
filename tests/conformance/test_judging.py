"""Reading the files of the suite, and the problems that `make conformance` reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.hosts import OURS_IN_ONE, OURS_IN_TWO, SDK_IN_TWO, Host
from tests.conformance.judging import Run, find_problems, find_unused_reasons, load_known_reasons
from tests.conformance.suite import REQUIREMENT_SETS, Outcome, Verdict, read_outcomes

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
        (None, Outcome(Verdict.FAILED, ("the scenario was aborted",))),
    ],
)
def test_the_outcome_of_a_scenario_follows_from_its_checks(
    tmp_path: Path, statuses: list[str] | None, outcome: Outcome
) -> None:
    directory = tmp_path / "server-tools-list-2026-11-24T23-43-09-315Z"
    directory.mkdir()
    if statuses is not None:
        checks = [
            {"id": f"check-{number}", "status": status, "description": "what", "errorMessage": "why"}
            for number, status in enumerate(statuses)
        ]
        common_check = {"id": "wire-schema-valid", "status": "SUCCESS", "description": "messages are valid"}
        (directory / "checks.json").write_text(json.dumps([*checks, common_check]))
    assert read_outcomes(tmp_path) == {"tools-list": outcome}


def test_a_scenario_that_does_not_pass_needs_a_reason() -> None:
    runs = [run_of(OURS_IN_ONE, ping=FAILED, tasks=FAILED, skills=SKIPPED), run_of(OURS_IN_TWO, ping=PASSED)]
    assert [run.score() for run in runs] == ["0/1", "1/1"]
    assert find_problems(runs, {"tasks": "an extension"}) == [
        "mcp-tornado, 1 process, requirements 2025-11-25: ping failed\n    answers: got 404",
        "mcp-tornado, 1 process, requirements 2025-11-25: skills skipped",
    ]


def test_a_failure_of_the_control_is_no_problem() -> None:
    assert find_problems([run_of(OURS_IN_TWO, ping=PASSED), run_of(SDK_IN_TWO, ping=FAILED)], {}) == []


def test_a_scored_scenario_must_pass() -> None:
    problems = find_problems([run_of(OURS_IN_TWO, ping=FAILED)], {"ping": "a reason"})
    assert problems == ["known.toml: ping is scored, so it must pass"]


def test_a_reason_is_outdated_if_its_scenario_passes() -> None:
    everywhere = [run_of(OURS_IN_ONE, ping=PASSED, tasks=PASSED), run_of(OURS_IN_TWO, ping=PASSED, tasks=PASSED)]
    assert find_problems(everywhere, {"tasks": "why"}) == ["known.toml: tasks passes, so its reason is outdated"]
    not_everywhere = [everywhere[0], run_of(OURS_IN_TWO, ping=PASSED, tasks=FAILED)]
    assert find_problems(not_everywhere, {"tasks": "why"}) == []


def test_a_reason_is_outdated_if_its_scenario_does_not_exist() -> None:
    runs = [run_of(OURS_IN_TWO, ping=PASSED)]
    assert find_problems(runs, {"tasks": "why"}) == []
    assert find_unused_reasons(runs, {"tasks": "why"}) == [
        "known.toml: the suite has no scenario tasks, so its reason is outdated"
    ]


def test_no_reason_is_empty() -> None:
    reasons = load_known_reasons()
    assert len(reasons) == 13
    assert all(reasons.values())
