"""The server processes: each has a port of its own and can be ended and started again."""

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
DEADLINE_SECONDS: Final = 60.0
"""How long the suite waits for a condition before the run fails."""

_POLL_SECONDS: Final = 0.05
_PORT_ATTEMPTS: Final = 1000


def free_port() -> int:
    """Return a port on which nothing listens, outside of the range of ephemeral ports.

    The system may give an ephemeral port to an outgoing connection. A client that connects to the port of a killed
    process on the same machine could then connect to itself.
    """
    for _ in range(_PORT_ATTEMPTS):
        port = random.randrange(10_000, 22_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise RuntimeError(f"no free port found in {_PORT_ATTEMPTS} attempts")


async def wait_until(condition: Callable[[], bool], description: str) -> None:
    """Wait until a condition holds.

    Raises:
        RuntimeError: It did not hold in time; the message begins with the description, such as "redis-server listens".
    """
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not condition():
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise RuntimeError(f"{description}: not true within {DEADLINE_SECONDS:g} s") from None


class ServerProcess:
    """One process of `mcp-tornado serve`.

    Args:
        number: Its number in the records.
        directory: Its working directory, which also gets its log.
        settings: Environment variables, without the prefix `MCP_TORNADO_`.
    """

    def __init__(self, number: int, directory: Path, settings: Mapping[str, object]) -> None:
        self.number = number
        self.port = free_port()
        self.log = directory / f"process-{number}.log"
        self.lock = asyncio.Lock()
        """Held during a fault: one fault at a time."""
        self._directory = directory
        self._settings = {**settings, "SERVER__PORT": self.port}
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the process and return when it is ready.

        A process that ends, because its store is unreachable, is started again until the deadline.
        """
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not await is_ready(self.port):
                    if self._process is None or self._process.poll() is not None:
                        self._process = self._spawn()
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            log = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "no log"
            raise RuntimeError(f"process {self.number} not ready within {DEADLINE_SECONDS:g} s: {log}") from None

    def _spawn(self) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MCP_TORNADO_")}
        own = {f"MCP_TORNADO_{name}": str(value) for name, value in self._settings.items()}
        command = [sys.executable, "-m", "mcp_tornado", "serve", f"{APP}:server"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=self._directory, env={**inherited, **own}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait until the process has ended and return its exit code."""
        process = self._process
        assert process is not None
        await wait_until(lambda: process.poll() is not None, f"process {self.number} has ended")
        assert process.returncode is not None
        return process.returncode

    def kill(self) -> None:
        """Kill the process if it was started, and wait until it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
