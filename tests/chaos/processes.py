"""The served processes: each on a port of its own, ended and started again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.chaos.proxy import HOST, is_ready

APP: Final = Path(__file__).with_name("app.py")
DEADLINE: Final = 60.0
"""Seconds after which something that is waited for counts as not happening."""

_POLL: Final = 0.05


def free_port() -> int:
    """Return a port that nobody listens on, and that no connection is given as its own end.

    Else who tries to reach a process that was killed might, on this machine, be connected to itself.
    """
    while True:
        port = random.randrange(10_000, 22_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


async def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise RuntimeError(f"{what} did not come true") from None


class Served:
    """One process of `mcp-tornado serve`.

    Args:
        number: Its name in the records.
        directory: Where it runs and leaves its log.
        settings: Variables, without their common prefix.
    """

    def __init__(self, number: int, directory: Path, settings: Mapping[str, object]) -> None:
        self.number = number
        self.port = free_port()
        self.log = directory / f"process-{number}.log"
        self.lock = asyncio.Lock()
        """Held by whoever disturbs it: one disturbance at a time."""
        self._directory = directory
        self._settings = {**settings, "SERVER__PORT": self.port}
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and return once it is ready; one that cannot start, because its store is away, is started again."""
        async with asyncio.timeout(DEADLINE):
            while not await is_ready(self.port):
                if self._process is None or self._process.poll() is not None:
                    self._process = self._spawn()
                await asyncio.sleep(_POLL)

    def _spawn(self) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MCP_TORNADO_")}
        ours = {f"MCP_TORNADO_{name}": str(value) for name, value in self._settings.items()}
        command = [sys.executable, "-m", "mcp_tornado", "serve", f"{APP}:server"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=self._directory, env={**kept, **ours}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        process = self._process
        assert process is not None
        await wait_until(lambda: process.poll() is not None, f"the end of process {self.number}")
        assert process.returncode is not None
        return process.returncode

    def end(self) -> None:
        """Leave nothing behind."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
