"""A short run of the chaos suite on each store: a fixed seed, few clients, and faults of every kind."""

from __future__ import annotations

import shutil
from random import Random

import pytest

from tests.chaos.schedule import DEATH_TIMEOUT_SECONDS, Fault, FaultKind, draw_schedule
from tests.chaos.stores import STORES
from tests.chaos.suite import Plan, format_result, run
from tests.conftest import DID_NOT_RUN

SECONDS = 16.0
SEED = 11


@pytest.mark.anyio
@pytest.mark.parametrize("store", sorted(STORES))
async def test_nothing_is_lost(store: str) -> None:
    if store == "redis" and shutil.which("redis-server") is None:
        pytest.skip(f"{DID_NOT_RUN}redis-server is not on the PATH; apt-get install redis-server")
    lines: list[str] = []
    result = await run(Plan(store, SEED, SECONDS, clients=20, processes=3), lines.append)
    assert result.passed, "\n".join([*lines, format_result(result)])
    for name in ("kills", "stops", "drains", "store restarts"):
        assert result.activity[name] > 0
    assert result.activity["sessions served by several processes"] == result.activity["sessions"]


@pytest.mark.parametrize("seed", range(20))
def test_a_schedule_has_faults_of_every_kind(seed: int) -> None:
    short = draw_schedule(Random(seed), SECONDS, 3)
    assert {fault.kind for fault in short} == set(FaultKind)
    assert short == draw_schedule(Random(seed), SECONDS, 3), "the same seed gives the same schedule"
    assert not long_stops(short)
    assert len(long_stops(draw_schedule(Random(seed), 90.0, 3))) == 1


def long_stops(schedule: list[Fault]) -> list[Fault]:
    """Return the faults that stop a process so long that it counts as dead."""
    return [fault for fault in schedule if fault.kind is FaultKind.STOP and fault.seconds > DEATH_TIMEOUT_SECONDS]
