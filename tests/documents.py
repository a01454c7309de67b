"""Helpers for tests that run the examples of a document: they find the examples and start servers on free ports."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

REPOSITORY: Final = Path(__file__).parents[1]
DEADLINE: Final = 30.0
"""The time in seconds after which a test stops waiting and fails. It is generous, and no test asserts it."""


class Document:
    """A Markdown document."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.blocks: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        """The code blocks of the document, as pairs of language and text."""

    def section(self, heading: str) -> Document:
        """Return the section under a heading of level 2 or deeper, up to the next heading that is not deeper."""
        level = len(heading) - len(heading.lstrip("#"))
        _, found, rest = self.text.partition(f"\n{heading}\n")
        assert found, f"no heading reads {heading!r}"
        # Headings of level 1 are left out: in an example, a single # begins a comment.
        return Document(re.split(rf"^#{{2,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0])

    def block(self, language: str, containing: str) -> str:
        """Return the only code block of a language that contains a text."""
        found = [text for name, text in self.blocks if name == language and containing in text]
        assert len(found) == 1, f"{len(found)} blocks of {language} contain {containing!r}"
        return found[0]

    def write_python_files(self, directory: Path, ports: Mapping[str, int]) -> None:
        """Write every Python file that the document shows, and replace the ports in it (see `with_ports`)."""
        for language, text in self.blocks:
            name = re.match(r"# (\w+\.py)\n", text)
            if language == "python" and name is not None:
                (directory / name[1]).write_text(with_ports(text, ports))


def with_ports(text: str, ports: Mapping[str, int]) -> str:
    """Return a text in which the ports that it shows are replaced: `ports` maps each shown port to the real one."""
    for shown, port in ports.items():
        text = text.replace(shown, str(port))
    return text


def free_ports(number: int) -> list[int]:
    """Return as many free TCP ports as `number` says."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def environment() -> dict[str, str]:
    """Return our environment variables without settings, with our virtual environment first in `PATH`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MCP_TORNADO_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}


@dataclass(frozen=True)
class RunningServer:
    """A server process that a test has started."""

    origin: str
    process: subprocess.Popen[Any]
    log: Path
    """The file with the standard error of the process."""

    def wait_until_ready(self) -> None:
        """Wait until the server answers HTTP requests; fail if it ends or needs longer than `DEADLINE`."""
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            try:
                httpx.get(f"{self.origin}/healthz")
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"the server does not answer: {self.log.read_text()}")


@contextmanager
def started(
    command: Sequence[str], directory: Path, port: int, stop: signal.Signals = signal.SIGTERM
) -> Generator[RunningServer]:
    """Start a server and yield it at once; at the end, send it the signal `stop` and wait for its end."""
    log = directory / f"{port}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=directory, env=environment(), stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield RunningServer(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.send_signal(stop)
        try:
            process.wait(DEADLINE)
        finally:
            process.kill()


@contextmanager
def serving(
    command: Sequence[str], directory: Path, port: int, stop: signal.Signals = signal.SIGTERM
) -> Generator[str]:
    """Start a server, yield its origin when it answers, and stop it at the end."""
    with started(command, directory, port, stop) as server:
        server.wait_until_ready()
        yield server.origin
