"""The part of the official conformance suite that every change must pass; `make conformance` runs all of it."""

from __future__ import annotations

import pytest

from tests.conformance import suite
from tests.conformance.hosts import OURS_IN_TWO
from tests.conformance.judging import Run, find_problems, load_known_reasons
from tests.javascript import tools

tools.require()

pytestmark = pytest.mark.anyio


async def test_two_processes_meet_the_requirements_of_the_revisions() -> None:
    async with OURS_IN_TWO.serving() as url:
        runs = [
            Run(OURS_IN_TWO, scenarios, await suite.run(scenarios, url), scenarios.scored())
            for scenarios in suite.REQUIREMENT_SETS
        ]
    problems = find_problems(runs, load_known_reasons())
    assert not problems, "\n".join(problems)
    assert [run.score() for run in runs] == ["30/30", "37/37"]


async def test_a_suite_that_does_not_run_to_the_end_raises() -> None:
    unknown = suite.ScenarioSet("unknown", ("--suite", "nonesuch"))
    with pytest.raises(suite.SuiteFailed, match="Unknown suite: nonesuch"):
        await suite.run(unknown, "http://127.0.0.1:9/mcp")


async def test_every_scenario_fails_without_a_server() -> None:
    scenarios = suite.ScenarioSet("one", ("--suite", "all", "--spec-version", "2025-03-26"))
    outcomes = await suite.run(scenarios, "http://127.0.0.1:9/mcp")
    assert {outcome.verdict for outcome in outcomes.values()} == {suite.Verdict.FAILED}
    assert all(outcome.failures for outcome in outcomes.values())
