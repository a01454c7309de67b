"""A short cut of the chaos suite, over each store: a fixed seed, few clients, everything that is done to processes."""

from __future__ import annotations

import shutil
from random import Random

import pytest

from tests.chaos.schedule import STOP_BOUND, Kind, draw_schedule
from tests.chaos.stores import STORES
from tests.chaos.suite import Plan, run, told
from tests.conftest import DID_NOT_RUN

SECONDS = 16.0
SEED = 11


@pytest.mark.anyio
@pytest.mark.parametrize("store", sorted(STORES))
async def test_nothing_is_lost(store: str) -> None:
    if store == "redis" and shutil.which("redis-server") is None:
        pytest.skip(f"{DID_NOT_RUN}redis-server is not on the PATH; apt-get install redis-server")
    said: list[str] = []
    result = await run(Plan(store, SEED, SECONDS, clients=20, processes=3), said.append)
    assert result.passed, "\n".join([*said, told(result)])
    for done in ("kills", "stops", "drains", "store restarts"):
        assert result.numbers[done] > 0
    assert result.numbers["sessions served by several processes"] == result.numbers["sessions"]


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_has_something_of_everything(seed: int) -> None:
    short = draw_schedule(Random(seed), SECONDS, 3)
    assert {action.kind for action in short} == set(Kind)
    assert short == draw_schedule(Random(seed), SECONDS, 3), "a seed gives the same again"
    assert not [action for action in short if action.kind is Kind.STOP and action.seconds > STOP_BOUND]
    long = draw_schedule(Random(seed), 90.0, 3)
    assert len([action for action in long if action.kind is Kind.STOP and action.seconds > STOP_BOUND]) == 1
