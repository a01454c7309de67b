"""The supervisor with workers that serve nothing: what whole servers cannot be made to do. See test_workers.py too."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

DEADLINE = 30.0

BEGINNING = """
import errno, os, signal, time
from mcp_tornado import log, supervisor

log.configure()
forks = 0
fork = os.fork

def fork_but_for(*failing):
    def counted():
        global forks
        forks += 1
        if forks in failing:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()
    os.fork = counted
"""


def run(script: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run a supervisor and its workers; return the exit code, the log, and what else was said."""
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + script], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    log = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return done.returncode, log, done.stderr


def named(log: list[dict[str, Any]], *events: str) -> list[dict[str, Any]]:
    return [line for line in log if line["event"] in events]


def test_a_worker_that_does_not_end_is_killed() -> None:
    code, log, _ = run("""
supervisor._MARGIN_SECONDS = 0.0
worker = supervisor.supervise([], 1, 0.0)
if worker is not None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker.tell_serving()
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
""")
    assert code == 0
    assert len(named(log, "worker.killed")) == 1
    (died,) = named(log, "worker.died")
    assert died["signal"] == 9
    assert log[-1]["event"] == "supervisor.stopped"


@pytest.mark.parametrize("failing", [1, 2])
def test_where_no_process_can_be_made_at_the_start_that_is_an_error(failing: int) -> None:
    code, log, said = run(f"""
fork_but_for({failing})
worker = supervisor.supervise([], 2, 3600.0)
if worker is not None:
    worker.tell_serving()
    time.sleep(600)
""")
    assert code == 1
    assert said.splitlines()[-1].startswith("mcp_tornado.supervisor.WorkersFailed: no process can be made: ")
    assert named(log, "worker.died", "supervisor.stopped") == []


def test_where_none_can_be_made_later_it_is_tried_again() -> None:
    code, log, _ = run("""
fork_but_for(2, 3)
worker = supervisor.supervise([], 1, 0.0)
if worker is not None:
    worker.tell_serving()
    if forks == 1:
        raise SystemExit(7)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
""")
    assert code == 0
    died = named(log, "worker.died")
    assert [line.get("exit_code") for line in died] == [7, None, None]
    assert [line["restart_in_seconds"] for line in died] == [0.1, 0.2, 0.4]
    assert ["no process can be made" in line.get("reason", "") for line in died] == [False, True, True]
    assert len(named(log, "worker.started")) == 2


def test_a_worker_that_ran_well_is_replaced_soon_however_often_it_died_before() -> None:
    code, log, _ = run("""
supervisor._RAN_WELL_SECONDS = 0.0
fork_but_for()
worker = supervisor.supervise([], 1, 0.0)
if worker is not None:
    if forks != 2:
        worker.tell_serving()
    if forks <= 3:
        raise SystemExit(7)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
""")
    assert code == 0
    assert [line["restart_in_seconds"] for line in named(log, "worker.died")] == [0.1, 0.2, 0.1]


def test_a_worker_ends_as_any_process_does() -> None:
    code, log, said = run("""
import atexit, sys
worker = supervisor.supervise([], 1, 30.0)
if worker is not None:
    atexit.register(os.write, 2, b"goodbye\\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    worker.tell_serving()
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
""")
    assert code == 0
    assert "goodbye" in said.splitlines()
    assert named(log, "worker.died") == []
