"""The supervisor, with workers that serve nothing; tests/integration/test_workers.py tests it with whole servers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

DEADLINE = 30.0

PREAMBLE = """
import errno, os, signal, time
from mcp_tornado import log, supervisor

log.configure()
forks = 0
fork = os.fork

def count_forks(*failing):
    "Count the forks; those with these numbers fail."
    def fork_or_fail():
        global forks
        forks += 1
        if forks in failing:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()
    os.fork = fork_or_fail
"""


def run(script: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run a supervisor and its workers; return the exit code, the log events, and all of standard error."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    log = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return done.returncode, log, done.stderr


def events_named(log: list[dict[str, Any]], *events: str) -> list[dict[str, Any]]:
    return [line for line in log if line["event"] in events]


def test_a_worker_that_does_not_end_is_killed() -> None:
    code, log, _ = run("""
supervisor._KILL_MARGIN_SECONDS = 0.0
worker = supervisor.supervise([], 1, 0.0)
if worker is not None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker.report_serving()
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
""")
    assert code == 0
    assert len(events_named(log, "worker.killed")) == 1
    (died,) = events_named(log, "worker.died")
    assert died["signal"] == 9
    assert log[-1]["event"] == "supervisor.stopped"


@pytest.mark.parametrize("failing", [1, 2])
def test_a_fork_that_fails_at_the_start_ends_the_supervisor(failing: int) -> None:
    code, log, stderr = run(f"""
count_forks({failing})
worker = supervisor.supervise([], 2, 3600.0)
if worker is not None:
    worker.report_serving()
    time.sleep(600)
""")
    assert code == 1
    assert stderr.splitlines()[-1].startswith("mcp_tornado.supervisor.WorkersFailed: cannot fork a process: ")
    assert events_named(log, "worker.died", "supervisor.stopped") == []


def test_a_fork_that_fails_later_is_retried() -> None:
    code, log, _ = run("""
count_forks(2, 3)
worker = supervisor.supervise([], 1, 0.0)
if worker is not None:
    worker.report_serving()
    if forks == 1:
        raise SystemExit(7)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
""")
    assert code == 0
    died = events_named(log, "worker.died")
    assert [line.get("exit_code") for line in died] == [7, None, None]
    assert [line["restart_in_seconds"] for line in died] == [0.1, 0.2, 0.4]
    assert ["cannot fork a process" in line.get("reason", "") for line in died] == [False, True, True]
    assert len(events_named(log, "worker.started")) == 2


def test_a_stable_worker_is_replaced_after_the_minimum_delay() -> None:
    code, log, _ = run("""
supervisor._STABLE_AFTER_SECONDS = 0.0
count_forks()
worker = supervisor.supervise([], 1, 0.0)
if worker is not None:
    if forks != 2:
        worker.report_serving()
    if forks <= 3:
        raise SystemExit(7)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
""")
    assert code == 0
    assert [line["restart_in_seconds"] for line in events_named(log, "worker.died")] == [0.1, 0.2, 0.1]


def test_a_worker_runs_its_exit_handlers() -> None:
    code, log, stderr = run("""
import atexit, sys
worker = supervisor.supervise([], 1, 30.0)
if worker is not None:
    atexit.register(os.write, 2, b"goodbye\\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    worker.report_serving()
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(600)
""")
    assert code == 0
    assert "goodbye" in stderr.splitlines()
    assert events_named(log, "worker.died") == []
