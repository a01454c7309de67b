"""Documents whose examples are run as they stand, on other ports: finds the examples, and starts servers."""

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
"""Seconds after which something that a test waits for counts as not happening; generous, never asserted on."""


class Document:
    """A text in Markdown."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.blocks: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        """Its code blocks: the language, and what is in them."""

    def section(self, heading: str) -> Document:
        """Return what stands under a heading of the second rank or below, up to the next of its rank or above."""
        rank = len(heading) - len(heading.lstrip("#"))
        _, found, rest = self.text.partition(f"\n{heading}\n")
        assert found, f"no heading reads {heading!r}"
        # A single # begins a comment in an example.
        return Document(re.split(rf"^#{{2,{rank}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0])

    def block(self, language: str, containing: str) -> str:
        """Return the one code block of a language that holds a text."""
        found = [text for name, text in self.blocks if name == language and containing in text]
        assert len(found) == 1, f"{len(found)} blocks of {language} hold {containing!r}"
        return found[0]

    def write_files(self, directory: Path, ports: Mapping[str, int]) -> None:
        """Write every file in Python that it shows, with other ports in place of those that stand there."""
        for language, text in self.blocks:
            name = re.match(r"# (\w+\.py)\n", text)
            if language == "python" and name is not None:
                (directory / name[1]).write_text(on_ports(text, ports))


def on_ports(text: str, ports: Mapping[str, int]) -> str:
    """Return a text with other ports in place of those that stand in it."""
    for shown, port in ports.items():
        text = text.replace(shown, str(port))
    return text


def free_ports(number: int) -> list[int]:
    """Return ports on which nothing listens."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def environment() -> dict[str, str]:
    """Return our environment without settings, in which commands are those of our virtual environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MCP_TORNADO_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}


@dataclass(frozen=True)
class Started:
    """A server that was started."""

    origin: str
    process: subprocess.Popen[Any]
    log: Path
    """What it writes to its standard error."""

    def wait_until_it_answers(self) -> None:
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            try:
                httpx.get(f"{self.origin}/healthz")
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"nothing listens: {self.log.read_text()}")


@contextmanager
def started(
    command: Sequence[str], directory: Path, port: int, stop: signal.Signals = signal.SIGTERM
) -> Generator[Started]:
    """Start a server, and stop it in the end."""
    log = directory / f"{port}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=directory, env=environment(), stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield Started(f"http://127.0.0.1:{port}", process, log)
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
    """Start a server, return its origin once it answers, and stop it in the end."""
    with started(command, directory, port, stop) as server:
        server.wait_until_it_answers()
        yield server.origin
