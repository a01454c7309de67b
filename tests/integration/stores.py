"""Stores of the tests, and the servers of those that have one."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.chaos.processes import free_port
from tests.chaos.proxy import HOST
from tests.conftest import DID_NOT_RUN
from tests.integration.waiting import block_until


class StoreServer:
    """The server of a store, which can be killed, frozen, and started again with its data.

    Args:
        port: The port on which it listens.
        command: The command that starts it.
    """

    def __init__(self, port: int, command: Sequence[str | Path]) -> None:
        self.port = port
        self._command = command
        self._process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start the server and return when it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        block_until(self._is_listening, f"{self._command[0]} listens on port {self.port}")

    def _is_listening(self) -> bool:
        assert self._process.poll() is None, f"{self._command[0]} has ended"
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            return True
        return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @contextmanager
    def killed(self) -> Generator[None]:
        """Kill the server for the length of a block, then start it again with its data."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Generator[None]:
        """Stop the server with SIGSTOP for the length of a block: it accepts connections and answers nothing."""
        freeze_process(self._process.pid)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


def freeze_process(pid: int) -> None:
    """Stop a process with SIGSTOP and return when it is stopped."""
    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)
    block_until(lambda: process.status() == psutil.STATUS_STOPPED, f"process {pid} is stopped")


@contextmanager
def run_redis(directory: Path, *options: str) -> Generator[StoreServer]:
    """Run redis-server with these options; without it on the machine, skip the test."""
    if shutil.which("redis-server") is None:
        pytest.skip(f"{DID_NOT_RUN}redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    server = StoreServer(
        port, ["redis-server", "--bind", HOST, "--port", str(port), "--dir", directory, "--save", "", *options]
    )
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def run_mongodb(directory: Path) -> Generator[StoreServer]:
    """Run nx-27017, a MongoDB server."""
    port = free_port()
    program = Path(sys.executable).with_name("nx-27017")
    files = ("--data-dir", directory / "data", "--log-file", directory / "log", "--pid-file", directory / "pid")
    server = StoreServer(port, [program, "-p", str(port), *files])
    try:
        yield server
    finally:
        server.kill()


def sqlite_url(directory: Path) -> str:
    return f"sqlite:///{directory / 'sessions.db'}"


@contextmanager
def run_store(kind: str, directory: Path) -> Generator[tuple[str, StoreServer | None]]:
    """Run a new durable store: give its URL, and its server if it has one."""
    if kind == "sqlite":
        yield sqlite_url(directory), None
    elif kind == "redis":
        with run_redis(directory, "--appendonly", "yes", "--appendfsync", "always") as server:
            yield f"redis://{HOST}:{server.port}", server
    else:
        with run_mongodb(directory) as server:
            yield f"mongodb://{HOST}:{server.port}/test", server
