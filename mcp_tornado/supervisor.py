"""Several processes that serve the same sockets, and the supervisor that keeps them running.

The supervisor forks before it has any thread or event loop, never accepts a connection and never imports what is
served: a fault of that is a worker's alone. A worker that dies is replaced, after a delay that grows while it keeps
dying. Systems without `os.fork` cannot do this.
"""

from __future__ import annotations

import asyncio
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

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 30.0
"""Seconds until a worker is replaced: doubled with each death from the first to the longest."""
_RAN_WELL_SECONDS: Final = 60.0
"""A worker that has served for so long is replaced after the first delay again."""
_MARGIN_SECONDS: Final = 10.0
"""How long workers may take to end, beyond the grace for their calls, until they are killed."""

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: a signal that has a handler is written to the pipe."""


class WorkersFailed(Exception):
    """The workers cannot serve at all; the message says why."""


class Worker:
    """What a worker process knows of its supervisor.

    Args:
        sockets: What it serves.
        lifeline: A file descriptor that is at its end once the supervisor is no more.
        report: Where it tells the supervisor how it fares: an empty message once it serves, a reason when it ends.
    """

    def __init__(self, sockets: Sequence[socket.socket], lifeline: int, report: Connection) -> None:
        self.sockets: Final = sockets
        self.orphaned = False
        """Whether it stops because the supervisor is no more."""
        self._lifeline = lifeline
        self._report = report

    def tell_serving(self) -> None:
        """Tell the supervisor that the worker serves from now on."""
        self._tell("")

    def tell_failure(self, reason: str) -> None:
        """Tell the supervisor why the worker ends now."""
        self._tell(reason)

    def _tell(self, text: str) -> None:
        with suppress(OSError):  # there may be no supervisor any more
            self._report.send_bytes(text.encode())

    def stop_event(self) -> asyncio.Event:
        """Return what is set, in the running event loop, when the supervisor says so or is no more.

        SIGTERM twice means the same as once: a service manager may signal every process, as the supervisor does.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_orphaned() -> None:
            loop.remove_reader(self._lifeline)
            _log.warning("supervisor.lost", pid=os.getpid())
            self.orphaned = True
            stop.set()

        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_reader(self._lifeline, on_orphaned)
        return stop


def supervise(sockets: Sequence[socket.socket], count: int, grace: float) -> Worker | None:
    """Fork workers and keep so many of them running until SIGTERM or SIGINT, then let them all drain.

    Each worker is a process that returns from this call, with a `Worker`. The supervisor returns `None`, once all
    workers have ended; at a second signal it kills them and ends at once. To be called in the main thread of a process
    without any other thread and without an event loop.

    Args:
        sockets: What the workers serve, bound and listening.
        count: How many workers there are.
        grace: Seconds that workers give their calls to finish when they drain; those that still run a little later
            are killed.

    Raises:
        WorkersFailed: In the supervisor: a worker ended by itself before it served, and none had served in its place
            before. The others have ended too.
    """
    return _Supervisor(sockets, count, grace).run()


@dataclass(slots=True)
class _Process:
    """A worker process, as the supervisor sees it."""

    pid: int
    report: Connection | None
    """`None` once it cannot say anything any more."""
    serving_since: float | None = None
    reason: str | None = None
    """Why it ends, where it has said so."""


@dataclass(slots=True)
class _Slot:
    """The place of one worker, which one process after the other takes."""

    number: int
    process: _Process | None = None
    has_served: bool = False
    """Whether any process has ever served in this place."""
    start_at: float = 0.0
    """When the next process is started, where there is none."""
    delay: float = _FIRST_DELAY


class _Supervisor:
    def __init__(self, sockets: Sequence[socket.socket], count: int, grace: float) -> None:
        self._sockets = sockets
        self._grace = grace
        self._slots = [_Slot(number) for number in range(1, count + 1)]
        self._kill_at: float | None = None
        """When workers that still run are killed; `None` while they are to run."""
        self._failure: str | None = None
        self._handled = (*_STOPPING, signal.SIGCHLD)  # the last one exists only where processes can be forked
        # Nothing is ever written here: what workers wait for is that nobody is left who could.
        self._lifeline, self._lifeline_end = os.pipe()
        self._signals, self._signals_end = os.pipe()

    def run(self) -> Worker | None:
        self._take_signals()
        _log.info("supervisor.started", pid=os.getpid(), workers=len(self._slots))
        while self._kill_at is None or self._processes():
            self._wait()
            for number in self._signals_received():
                self._on_signal(number)
            for slot in self._slots:
                if slot.process is not None:
                    self._look_after(slot, slot.process)
            if self._kill_at is not None and self._kill_at <= time.monotonic():
                self._kill_at = inf
                self._kill_all()
            for slot in self._slots:
                if self._kill_at is None and slot.process is None and slot.start_at <= time.monotonic():
                    worker = self._start(slot)
                    if worker is not None:
                        return worker
        if self._failure is not None:
            raise WorkersFailed(self._failure)
        _log.info("supervisor.stopped")
        return None

    def _processes(self) -> list[_Process]:
        return [slot.process for slot in self._slots if slot.process is not None]

    # ------------------------------------------------------------------ signals, and waiting for them

    def _take_signals(self) -> None:
        """Have the number of each signal written to a pipe, which can be waited for together with reports."""
        for end in (self._signals, self._signals_end):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._signals_end)
        for number in self._handled:
            signal.signal(number, _noted)

    def _wait(self) -> None:
        """Wait until there is something to do: a signal, the death of a worker among them, a report, or a due time."""
        if self._kill_at is None:
            due = min((slot.start_at for slot in self._slots if slot.process is None), default=inf)
        else:
            due = self._kill_at
        reports = [process.report for process in self._processes() if process.report is not None]
        wait([self._signals, *reports], None if due == inf else max(due - time.monotonic(), 0))

    def _signals_received(self) -> bytes:
        with suppress(BlockingIOError):
            return os.read(self._signals, 4096)
        return b""

    def _on_signal(self, number: int) -> None:
        if number not in _STOPPING:
            return
        if self._kill_at is None:
            self._stop()
            return
        self._kill_all()
        for process in self._processes():
            os.waitpid(process.pid, 0)
        os._exit(128 + number)

    # ------------------------------------------------------------------ the life of a worker

    def _start(self, slot: _Slot) -> Worker | None:
        """Fork; return the worker in the new process, and `None` in this one."""
        try:
            heard, said = Pipe(duplex=False)
            # A signal must not find the child with our handlers: they would write into our pipe.
            signal.pthread_sigmask(signal.SIG_BLOCK, self._handled)
            try:
                pid = os.fork()
                if pid == 0:
                    self._leave()
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, self._handled)
        except OSError as error:
            reason = f"no process can be made: {error.strerror}"
            if slot.has_served:
                self._replace_later(slot, reason=reason)
            else:
                self._give_up(reason)
            return None
        if pid == 0:
            heard.close()
            return Worker(self._sockets, self._lifeline, said)
        said.close()
        slot.process = _Process(pid, heard)
        return None

    def _leave(self) -> None:
        """Leave in a new process what is the supervisor's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all, and the supervisor passes it on
        for end in (self._lifeline_end, self._signals, self._signals_end):
            os.close(end)
        for process in self._processes():
            if process.report is not None:
                process.report.close()

    def _look_after(self, slot: _Slot, process: _Process) -> None:
        ended, status = os.waitpid(process.pid, os.WNOHANG)
        self._hear(slot, process)  # after that: a worker that has ended has said all it had to say
        if not ended:
            return
        slot.process = None
        if process.report is not None:
            process.report.close()
        if process.serving_since is not None and time.monotonic() - process.serving_since > _RAN_WELL_SECONDS:
            slot.delay = _FIRST_DELAY
        code = os.waitstatus_to_exitcode(status)  # negative: the signal that killed it
        how: dict[str, Any] = {"pid": process.pid, **({"exit_code": code} if code >= 0 else {"signal": -code})}
        if process.reason is not None:
            how["reason"] = process.reason
        if self._kill_at is not None:
            if code not in (0, -signal.SIGTERM) and self._failure is None:
                _log.warning("worker.died", number=slot.number, **how)
        elif code >= 0 and not slot.has_served:
            self._give_up(process.reason or f"worker {slot.number} ended with exit code {code} before it served")
        else:
            self._replace_later(slot, **how)

    def _hear(self, slot: _Slot, process: _Process) -> None:
        """Take what a worker has to say."""
        while process.report is not None and process.report.poll():
            try:
                process.reason = process.report.recv_bytes().decode() or None
            except (EOFError, OSError):
                process.report.close()
                process.report = None
                return
            if process.reason is None:
                process.serving_since = time.monotonic()
                slot.has_served = True
                _log.info("worker.started", number=slot.number, pid=process.pid)

    def _replace_later(self, slot: _Slot, **how: Any) -> None:
        _log.warning("worker.died", number=slot.number, **how, restart_in_seconds=slot.delay)
        slot.start_at = time.monotonic() + slot.delay
        slot.delay = min(2 * slot.delay, _LONGEST_DELAY)

    def _give_up(self, reason: str) -> None:
        self._failure = reason
        self._stop()

    # ------------------------------------------------------------------ the end

    def _stop(self) -> None:
        _log.info("supervisor.draining", grace_seconds=self._grace)
        self._kill_at = time.monotonic() + self._grace + _MARGIN_SECONDS
        for process in self._processes():
            os.kill(process.pid, signal.SIGTERM)

    def _kill_all(self) -> None:
        for slot in self._slots:
            if slot.process is not None:
                _log.warning("worker.killed", number=slot.number, pid=slot.process.pid)
                os.kill(slot.process.pid, signal.SIGKILL)
