"""The servers under load, each a process of its own on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
_DIRECTORY = Path(__file__).parent / "served"
"""Where servers are started: there are no settings in it that could change what is measured."""
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to serve the same server object."""

    name: str
    command: Sequence[str]
    """What comes after the interpreter; `{port}` stands for the port."""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


def _serving(file: str) -> Sequence[str]:
    return ("-m", "mcp_tornado", "serve", f"{file}:server", "--port", "{port}")


_OURS = _serving("add.py")
_QUIET = {"MCP_TORNADO_LOG__LEVEL": "WARNING"}

OURS_JSON = Contender("mcp-tornado, JSON answers", _OURS, {**_QUIET, "MCP_TORNADO_SERVER__JSON_RESPONSES": "true"})
OURS_DEFAULT = Contender("mcp-tornado, default mode", _OURS, _QUIET)
_UVICORN = "-m uvicorn add:sdk_app --factory --no-access-log --log-level warning"

SDK = Contender("SDK under uvicorn, JSON answers", (*_UVICORN.split(), "--host", HOST, "--port", "{port}"))


def asking_on(store: str) -> Contender:
    """Return the way to serve a tool that asks the client beside the one that adds, with sessions in a store."""
    variables = {**_QUIET, "MCP_TORNADO_SESSIONS__STORE": store}
    return Contender("mcp-tornado, a tool that asks", _serving("ask.py"), variables)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that accepts connections."""

    pid: int
    port: int


@contextmanager
def running(contender: Contender, core: int | None) -> Generator[RunningServer]:
    """Start a server, on one core if that is given; on leaving, end it in any case."""
    port = free_port()
    command = [sys.executable, *(part.format(port=port) for part in contender.command)]
    with started(command, port, contender.name, cwd=_DIRECTORY, env=_environment(contender)) as pid:
        if core is not None:
            os.sched_setaffinity(pid, {core})
        yield RunningServer(pid, port)


@contextmanager
def started(
    command: Sequence[str | Path],
    port: int,
    name: str,
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> Generator[int]:
    """Start a process that listens on a port, and give its id once it does; on leaving, end it in any case."""
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        _wait_until_it_accepts(process, port, name)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(contender: Contender) -> dict[str, str]:
    """Return this process's environment without anybody's settings of mcp-tornado, and with the contender's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MCP_TORNADO_")}
    return {**inherited, **contender.variables}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_accepts(process: subprocess.Popen[bytes], port: int, name: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with status {process.returncode} instead of serving") from None
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not listen within {_START_SECONDS:g} seconds") from None
            time.sleep(0.02)
