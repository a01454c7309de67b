"""Worker processes that serve the same sockets, and the supervisor that keeps them running.

The supervisor forks before it has a thread or an event loop. It never accepts a connection and never imports the
user's server, so an error or a crash of that server can end a worker but not the supervisor. The supervisor replaces a
worker that dies, after a delay that doubles with each death. This needs a system with `os.fork`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from multiprocessing.connection import Connection, Pipe, wait
from types import FrameType
from typing import Any, Final

from mcp_tornado.log import get_logger

_log = get_logger(__name__)

_MIN_RESTART_DELAY_SECONDS: Final = 0.1
"""The delay before the first replacement of a worker. Each further death doubles the delay, up to the maximum."""
_MAX_RESTART_DELAY_SECONDS: Final = 30.0
_STABLE_AFTER_SECONDS: Final = 60.0
"""When a worker that has served for this time dies, the delay starts from the minimum again."""
_KILL_MARGIN_SECONDS: Final = 10.0
"""How long workers may take to end after the grace period, before the supervisor kills them."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class WorkersFailed(Exception):
    """The workers cannot serve at all; the message says why.

    Args:
        reason: The message.
        traceback: The traceback of a fault in the user's code; empty if there is none.
    """

    def __init__(self, reason: str, traceback: str = "") -> None:
        super().__init__(reason)
        self.traceback: Final = traceback


class Worker:
    """The connection of a worker process to its supervisor.

    Args:
        sockets: The sockets that the worker serves.
        lifeline: The read end of a pipe whose write end only the supervisor has. It is at end of file when the
            supervisor has ended.
        reports: The pipe that carries reports to the supervisor: an empty message when the worker serves, or the reason
            and the traceback with which it ends.
    """

    def __init__(self, sockets: Sequence[socket.socket], lifeline: int, reports: Connection) -> None:
        self.sockets: Final = sockets
        self.has_lost_supervisor = False
        """Whether the worker stops because the supervisor has ended."""
        self._lifeline = lifeline
        self._reports = reports

    def report_serving(self) -> None:
        """Report to the supervisor that the worker serves."""
        self._report(b"")

    def report_failure(self, reason: str, traceback: str = "") -> None:
        """Report to the supervisor why the worker ends, with the traceback of a fault in the user's code."""
        self._report(json.dumps([reason, traceback]).encode())

    def _report(self, report: bytes) -> None:
        with suppress(OSError):  # the supervisor may have ended
            self._reports.send_bytes(report)

    def watch_stop_requests(self) -> asyncio.Event:
        """Return an event that is set when the supervisor stops the worker or has ended itself.

        The event belongs to the running event loop. A second SIGTERM changes nothing: the supervisor and a
        service manager may both signal the worker.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_supervisor_lost() -> None:
            loop.remove_reader(self._lifeline)
            _log.warning("supervisor.lost", pid=os.getpid())
            self.has_lost_supervisor = True
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_reader(self._lifeline, on_supervisor_lost)
        return stop


def supervise(sockets: Sequence[socket.socket], count: int, grace: float) -> Worker | None:
    """Fork workers and keep them running until SIGTERM or SIGINT, then let all of them drain.

    Call this function in the main thread of a process that has no other thread and no event loop. At a second signal
    the supervisor kills the workers and ends at once.

    Args:
        sockets: The sockets that the workers serve, bound and listening.
        count: The number of workers.
        grace: How long the calls of a draining worker may take to finish, in seconds. The supervisor kills workers that
            still run 10 seconds later.

    Returns:
        In each worker process, its `Worker`. In the supervisor process, `None` after all workers have ended.

    Raises:
        WorkersFailed: In the supervisor, after all workers have ended: a worker that had never served could not be
            forked, or ended without a signal before it served.
    """
    return _Supervisor(sockets, count, grace).run()


@dataclass(slots=True)
class _Process:
    """A worker process, from the point of view of the supervisor."""

    pid: int
    reports: Connection | None
    """`None` after the process has closed its end."""
    serving_since: float | None = None
    failure: tuple[str, str] | None = None
    """The reason and the traceback with which the process ends, if it has reported them."""


@dataclass(slots=True)
class _Slot:
    """The place of one worker: at most one process at a time, replaced when it dies."""

    number: int
    process: _Process | None = None
    has_served: bool = False
    """Whether any process of this slot has ever served."""
    start_at: float = 0.0
    """When the next process starts, while the slot has no process."""
    restart_delay: float = _MIN_RESTART_DELAY_SECONDS


class _Supervisor:
    def __init__(self, sockets: Sequence[socket.socket], count: int, grace: float) -> None:
        self._sockets = sockets
        self._grace = grace
        self._slots = [_Slot(number) for number in range(1, count + 1)]
        self._kill_at: float | None = None
        """When workers that still run are killed; `None` until the supervisor stops."""
        self._failure: WorkersFailed | None = None
        self._handled_signals = (*_STOP_SIGNALS, signal.SIGCHLD)  # SIGCHLD exists only on systems with fork
        # Nothing is ever written to this pipe. Its read end reports end of file when the supervisor has ended.
        self._lifeline, self._lifeline_write_end = os.pipe()
        self._signals, self._signals_write_end = os.pipe()

    def run(self) -> Worker | None:
        """Supervise until all workers have ended; see `supervise`."""
        self._install_signal_handlers()
        _log.info("supervisor.started", pid=os.getpid(), workers=len(self._slots))
        while self._kill_at is None or self._processes():
            self._wait()
            for number in self._read_signals():
                self._handle_signal(number)
            for slot in self._slots:
                if slot.process is not None:
                    self._check(slot, slot.process)
            if self._kill_at is not None and self._kill_at <= time.monotonic():
                self._kill_at = inf
                self._kill_all()
            for slot in self._slots:
                if self._kill_at is None and slot.process is None and slot.start_at <= time.monotonic():
                    worker = self._start_process(slot)
                    if worker is not None:
                        return worker
        if self._failure is not None:
            raise self._failure
        _log.info("supervisor.stopped")
        return None

    def _processes(self) -> list[_Process]:
        return [slot.process for slot in self._slots if slot.process is not None]

    # ------------------------------------------------------------------ start

    def _install_signal_handlers(self) -> None:
        """Have Python write the number of each signal to a pipe, so that `_wait` can wait for signals and reports."""
        for end in (self._signals, self._signals_write_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._signals_write_end)
        for number in self._handled_signals:
            signal.signal(number, _ignore_signal)

    def _start_process(self, slot: _Slot) -> Worker | None:
        """Fork; return a `Worker` in the new process, and `None` in the supervisor."""
        try:
            reader, writer = Pipe(duplex=False)
            # A signal must not reach the new process while it has these handlers: they write to the supervisor's pipe.
            signal.pthread_sigmask(signal.SIG_BLOCK, self._handled_signals)
            try:
                pid = os.fork()
                if pid == 0:
                    self._release_supervisor_resources()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, self._handled_signals)
        except OSError as error:
            reason = f"cannot fork a process: {error.strerror}"
            if slot.has_served:
                self._schedule_restart(slot, reason=reason)
            else:
                self._fail(reason)
            return None
        if pid == 0:
            reader.close()
            return Worker(self._sockets, self._lifeline, writer)
        writer.close()
        slot.process = _Process(pid, reader)
        return None

    def _release_supervisor_resources(self) -> None:
        """Release, in a new process, the signal handlers and file descriptors that belong to the supervisor."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C reaches all processes, and the supervisor stops the workers
        for end in (self._lifeline_write_end, self._signals, self._signals_write_end):
            os.close(end)
        for process in self._processes():
            if process.reports is not None:
                process.reports.close()

    # ------------------------------------------------------------------ running

    def _wait(self) -> None:
        """Wait for a signal (the death of a worker is one), a report, or the time of the next start or kill."""
        if self._kill_at is None:
            due = min((slot.start_at for slot in self._slots if slot.process is None), default=inf)
        else:
            due = self._kill_at
        reports = [process.reports for process in self._processes() if process.reports is not None]
        wait([self._signals, *reports], None if due == inf else max(due - time.monotonic(), 0))

    def _read_signals(self) -> bytes:
        """Return the numbers of the signals that arrived, one byte for each."""
        with suppress(BlockingIOError):
            return os.read(self._signals, 4096)
        return b""

    def _handle_signal(self, number: int) -> None:
        if number not in _STOP_SIGNALS:
            return
        if self._kill_at is None:
            self._stop()
            return
        self._kill_all()
        for process in self._processes():
            os.waitpid(process.pid, 0)
        os._exit(128 + number)

    def _check(self, slot: _Slot, process: _Process) -> None:
        """Read the reports of a process, and handle its exit if it has ended."""
        ended, status = os.waitpid(process.pid, os.WNOHANG)
        self._read_reports(slot, process)  # after waitpid: a process that has ended sends no more reports
        if ended:
            self._handle_exit(slot, process, os.waitstatus_to_exitcode(status))

    def _read_reports(self, slot: _Slot, process: _Process) -> None:
        while process.reports is not None and process.reports.poll():
            try:
                report = process.reports.recv_bytes()
            except (EOFError, OSError):
                process.reports.close()
                process.reports = None
                return
            if report:
                reason, traceback = json.loads(report)
                process.failure = reason, traceback
            else:
                process.serving_since = time.monotonic()
                slot.has_served = True
                _log.info("worker.started", number=slot.number, pid=process.pid)

    def _handle_exit(self, slot: _Slot, process: _Process, exit_code: int) -> None:
        """Schedule a replacement, or fail if the worker has never served.

        Args:
            slot: The place of the worker.
            process: The process that has ended.
            exit_code: Its exit code; negative if a signal killed it.
        """
        slot.process = None
        if process.reports is not None:
            process.reports.close()
        if process.serving_since is not None and time.monotonic() - process.serving_since > _STABLE_AFTER_SECONDS:
            slot.restart_delay = _MIN_RESTART_DELAY_SECONDS
        details: dict[str, Any] = {"pid": process.pid}
        details |= {"exit_code": exit_code} if exit_code >= 0 else {"signal": -exit_code}
        if process.failure is not None:
            reason, traceback = process.failure
            details |= {"reason": reason, "exception": traceback} if traceback else {"reason": reason}
        if self._kill_at is not None:
            if exit_code not in (0, -signal.SIGTERM) and self._failure is None:
                _log.warning("worker.died", number=slot.number, **details)
        elif exit_code >= 0 and not slot.has_served:
            unreported = f"worker {slot.number} ended with exit code {exit_code} before it served", ""
            self._fail(*(process.failure or unreported))
        else:
            self._schedule_restart(slot, **details)

    def _schedule_restart(self, slot: _Slot, **details: Any) -> None:
        _log.warning("worker.died", number=slot.number, **details, restart_in_seconds=slot.restart_delay)
        slot.start_at = time.monotonic() + slot.restart_delay
        slot.restart_delay = min(2 * slot.restart_delay, _MAX_RESTART_DELAY_SECONDS)

    # ------------------------------------------------------------------ stopping

    def _fail(self, reason: str, traceback: str = "") -> None:
        self._failure = WorkersFailed(reason, traceback)
        self._stop()

    def _stop(self) -> None:
        _log.info("supervisor.draining", grace_seconds=self._grace)
        self._kill_at = time.monotonic() + self._grace + _KILL_MARGIN_SECONDS
        for process in self._processes():
            os.kill(process.pid, signal.SIGTERM)

    def _kill_all(self) -> None:
        for slot in self._slots:
            if slot.process is not None:
                _log.warning("worker.killed", number=slot.number, pid=slot.process.pid)
                os.kill(slot.process.pid, signal.SIGKILL)


def _ignore_signal(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. Python writes only the signals that have a Python handler to the wakeup pipe."""
