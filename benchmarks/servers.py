"""The servers that are measured, each a process of its own on a free port."""

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
"""The working directory of the servers; it has no settings file that could affect the measurement."""
_START_TIMEOUT_SECONDS = 30.0
_STOP_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to serve the same server object."""

    name: str
    command: Sequence[str]
    """The arguments of the interpreter; `{port}` stands for the port."""
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


def _make_serve_arguments(file: str) -> Sequence[str]:
    return ("-m", "mcp_tornado", "serve", f"{file}:server", "--port", "{port}")


_OURS = _make_serve_arguments("add.py")
_QUIET = {"MCP_TORNADO_LOG__LEVEL": "WARNING"}

OURS_JSON = Contender("mcp-tornado, JSON answers", _OURS, {**_QUIET, "MCP_TORNADO_SERVER__JSON_RESPONSES": "true"})
OURS_DEFAULT = Contender("mcp-tornado, default mode", _OURS, _QUIET)
_UVICORN = "-m uvicorn add:sdk_app --factory --no-access-log --log-level warning"

SDK = Contender("SDK under uvicorn, JSON answers", (*_UVICORN.split(), "--host", HOST, "--port", "{port}"))


def make_asking_contender(store: str) -> Contender:
    """Return mcp-tornado with the tools of `ask.py`, with its sessions in the store at this URL."""
    variables = {**_QUIET, "MCP_TORNADO_SESSIONS__STORE": store}
    return Contender("mcp-tornado, a tool that asks", _make_serve_arguments("ask.py"), variables)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A running server that accepts connections."""

    pid: int
    port: int


@contextmanager
def run_server(contender: Contender, core: int | None) -> Generator[RunningServer]:
    """Run a server, pinned to a core if one is given; stop it on leaving."""
    port = find_free_port()
    command = [sys.executable, *(part.format(port=port) for part in contender.command)]
    with run_process(command, port, contender.name, cwd=_DIRECTORY, env=_make_environment(contender)) as pid:
        if core is not None:
            os.sched_setaffinity(pid, {core})
        yield RunningServer(pid, port)


@contextmanager
def run_process(
    command: Sequence[str | Path],
    port: int,
    name: str,
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> Generator[int]:
    """Run a process that listens on a port, and give its id as soon as it does; stop it on leaving."""
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=stderr)
    try:
        _wait_until_listening(process, port, name)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _make_environment(contender: Contender) -> dict[str, str]:
    """Return the environment of this process, with the settings of the contender and without other settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MCP_TORNADO_")}
    return {**inherited, **contender.variables}


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, name: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while True:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended with status {process.returncode} before it listened") from None
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not listen within {_START_TIMEOUT_SECONDS:g} seconds") from None
            time.sleep(0.02)
