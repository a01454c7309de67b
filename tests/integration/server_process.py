"""A process of `mcp-tornado serve`, and its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

from tests.integration.waiting import DEADLINE_SECONDS

APPS: Final = Path(__file__).with_name("apps")

NOT_JSON: Final = "this line is not JSON"
"""The event of a log line that is not a JSON object."""
_EXPECTED_EXCEPTIONS: Final = ("an accident", "Unknown prompt: nonesuch")
"""Texts of exceptions that tests raise on purpose."""

StartServer = Callable[..., Any]
"""The type of the fixture `start_server`."""


def app_name(file: str, attribute: str = "server") -> str:
    """Return the name of an app in `apps`, as the command line takes it."""
    return f"{APPS / file}.py:{attribute}"


EVERYTHING: Final = app_name("everything")
LOWLEVEL: Final = app_name("lowlevel")


def command(*arguments: str) -> list[str]:
    """Return the command that runs `mcp-tornado` with these arguments."""
    return [sys.executable, "-m", "mcp_tornado", *arguments]


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """Return the environment of a server process.

    Args:
        settings: Its settings, as variables without the prefix `MCP_TORNADO_`: `SERVER__KEEPALIVE_SECONDS=1`.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MCP_TORNADO_")}
    return {**inherited, **{f"MCP_TORNADO_{name}": str(value) for name, value in settings.items()}}


def parse_log_line(text: str) -> dict[str, Any]:
    """Return a line of the log as an object; a line that is none becomes a critical line with the event `NOT_JSON`."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {"event": NOT_JSON, "level": "critical", "text": text}


class Server:
    """A server process and its log.

    Args:
        app: The name of the served app, as the command line takes it.
        directory: Its working directory, without a settings file.
        settings: Environment variables, without the prefix `MCP_TORNADO_`.
        arguments: More arguments of `serve`; they override the port, which is free by default.
    """

    def __init__(
        self, app: str, directory: Path, settings: Mapping[str, object], arguments: Sequence[str] = ()
    ) -> None:
        self._process = subprocess.Popen(
            command("serve", app, "--port", "0", *arguments),
            cwd=directory,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.raw_log_lines: list[str] = []
        self.log_lines: list[dict[str, Any]] = []
        """The same lines, parsed."""
        self._log_ended = False
        self._changed = threading.Condition()
        self._log_reader = threading.Thread(target=self._read_log)
        self._log_reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        """The URL of the endpoint; blocks until the server has started."""
        return self.block_until_logged("server.started")["url"]

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/mcp")

    def log_lines_of(self, event: str) -> list[dict[str, Any]]:
        """Return the lines that the server has logged with this event."""
        return [line for line in list(self.log_lines) if line["event"] == event]

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            with self._changed:
                self.raw_log_lines.append(text)
                self.log_lines.append(parse_log_line(text))
                self._changed.notify_all()
        with self._changed:
            self._log_ended = True
            self._changed.notify_all()

    def block_until_logged(self, event: str, **values: object) -> dict[str, Any]:
        """Block until there is a log line with this event and these values, and return the first one."""

        checked = 0

        def find() -> dict[str, Any] | None:
            nonlocal checked
            while checked < len(self.log_lines):
                line = self.log_lines[checked]
                checked += 1
                if line["event"] == event and values.items() <= line.items():
                    return line
            return None

        with self._changed:
            line = self._changed.wait_for(lambda: find() or self._log_ended, DEADLINE_SECONDS)
        assert isinstance(line, dict), f"{event} {values} was not logged: {''.join(self.raw_log_lines[-50:])}"
        return line

    async def wait_until_logged(self, event: str, **values: object) -> dict[str, Any]:
        """Do the same as `block_until_logged`, without blocking the event loop."""
        return await anyio.to_thread.run_sync(partial(self.block_until_logged, event, **values))

    def send_signal(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def block_until_exit(self) -> int:
        """Block until the process and its log have ended, and return the exit code."""
        code = self._process.wait(DEADLINE_SECONDS)
        self._log_reader.join(DEADLINE_SECONDS)
        assert self._log_ended, "the process has ended, but another process keeps its log open"
        return code

    async def wait_for_exit(self) -> int:
        """Do the same as `block_until_exit`, without blocking the event loop."""
        return await anyio.to_thread.run_sync(self.block_until_exit)

    def kill(self) -> None:
        """Kill the process and release its resources."""
        self.send_signal(signal.SIGKILL)
        self.block_until_exit()
        self.close()

    def stop(self, exit_code: int = 0) -> None:
        """Stop the process with SIGTERM if it still runs; check its exit code and that it logged no error."""
        if self._process.poll() is None:
            self.send_signal()
        assert self.block_until_exit() == exit_code, "".join(self.raw_log_lines)
        assert self._process.stdout is not None
        assert self._process.stdout.read() == ""
        assert self.logged_errors() == []

    def logged_errors(self) -> list[dict[str, Any]]:
        """Return the lines at the level of errors, without those that tests cause on purpose."""
        return [
            line
            for line in self.log_lines
            if line["level"] in ("error", "critical")
            and not any(text in line.get("exception", "") for text in _EXPECTED_EXCEPTIONS)
        ]

    def close(self) -> None:
        """Kill the process if it still runs, and release its resources."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._log_reader.join(DEADLINE_SECONDS)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
