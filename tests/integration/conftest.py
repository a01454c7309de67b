"""A real server process for each module that asks for one, and a client on the bare wire."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

import anyio
import httpx
import pytest

EVERYTHING: Final = Path(__file__).with_name("everything.py")
DEADLINE: Final = 30.0
"""Seconds after which something that a test waits for counts as not happening; generous, never asserted on."""

LATEST: Final = "2025-11-25"
UNPRIMED: Final = "2025-06-18"
STATELESS: Final = "2026-07-28"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mcp_tornado", *arguments]


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """Return our environment without settings, and these: `SERVER__KEEPALIVE_SECONDS=1`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MCP_TORNADO_")}
    return {**kept, **{f"MCP_TORNADO_{name}": str(value) for name, value in settings.items()}}


def parsed(text: str) -> dict[str, Any]:
    """Return a line of a log; every one must be a JSON object."""
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {"event": "this is no JSON", "level": "critical", "text": text}


class Server:
    """A server process and what it logs.

    Args:
        app: What is served: an attribute of everything.py, or a whole name with a colon.
        directory: Where it runs; no settings file is there.
        settings: Variables, without their common prefix.
        arguments: More of the command line, which goes before what stands there already.
    """

    def __init__(
        self, app: str, directory: Path, settings: Mapping[str, object], arguments: Sequence[str] = ()
    ) -> None:
        name = app if ":" in app else f"{EVERYTHING}:{app}"
        self._process = subprocess.Popen(
            command("serve", name, "--port", "0", *arguments),
            cwd=directory,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.texts: list[str] = []
        """The lines of its log as they are."""
        self.lines: list[dict[str, Any]] = []
        """The same as what they hold; a line that is no JSON counts as an error."""
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return self.wait_for_line("server.started")["url"]

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/mcp")

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in list(self.lines) if line["event"] == name]

    def _read(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            with self._changed:
                self.texts.append(text)
                self.lines.append(parsed(text))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for_line(self, event: str, **values: object) -> dict[str, Any]:
        """Wait for a line of the log with these values and return it."""

        seen = 0

        def found() -> dict[str, Any] | None:
            nonlocal seen
            while seen < len(self.lines):
                line = self.lines[seen]
                seen += 1
                if line["event"] == event and values.items() <= line.items():
                    return line
            return None

        with self._changed:
            line = self._changed.wait_for(lambda: found() or self._ended, DEADLINE)
        assert isinstance(line, dict), f"never logged {event} {values}: {''.join(self.texts[-50:])}"
        return line

    async def line(self, event: str, **values: object) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(partial(self.wait_for_line, event, **values))

    def signal(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end of the process and of its log, and return the exit code."""
        code = self._process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    async def exit_code(self) -> int:
        return await anyio.to_thread.run_sync(self.wait)

    def kill(self) -> None:
        """End it as a power cut does."""
        self.signal(signal.SIGKILL)
        self.wait()
        self.close()

    def stop(self, exit_code: int = 0) -> None:
        """Stop it as an operator does; it must end well, and must not have failed at anything."""
        if self._process.poll() is None:
            self.signal()
        assert self.wait() == exit_code, "".join(self.texts)
        assert self._process.stdout is not None
        assert self._process.stdout.read() == ""
        assert self.failures() == []

    def failures(self) -> list[dict[str, Any]]:
        """Return the errors it logged, but for those that the tests cause on purpose."""
        wanted = ("an accident", "Unknown prompt: nonesuch")
        return [
            line
            for line in self.lines
            if line["level"] in ("error", "critical") and not any(text in line.get("exception", "") for text in wanted)
        ]

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


StartServer = Callable[..., Any]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> StartServer:
    """Return what starts a server: `with start_server("server", SERVER__PORT=1) as server`."""

    @contextmanager
    def start(app: str = "server", *, exit_code: int = 0, **settings: object) -> Generator[Server]:
        usual = {"LOG__LEVEL": "INFO", "SERVER__SHUTDOWN_GRACE_SECONDS": 5}
        server = Server(app, tmp_path_factory.mktemp("server"), {**usual, **settings})
        try:
            assert server.url
            yield server
            server.stop(exit_code)
        finally:
            server.close()

    return start


@pytest.fixture
async def front(cluster: Any) -> AsyncGenerator[Any]:
    """A round robin before the `cluster` of the module."""
    from tests.integration.cluster import front_of  # it is made of what stands here

    async with front_of(cluster) as front:
        yield front


# ---------------------------------------------------------------- the bare wire


@dataclass(frozen=True)
class Frame:
    """One server-sent event, or a comment."""

    id: str | None
    message: Any
    retry: int | None
    comment: str | None = None

    @property
    def is_priming(self) -> bool:
        return self.id is not None and self.message is None


class Address(Protocol):
    """Where a server is, or many that look like one."""

    @property
    def url(self) -> str: ...

    @property
    def origin(self) -> str: ...


class Events:
    """The server-sent events of a response."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()
        self.comments: list[str] = []

    async def aclose(self) -> None:
        await self._lines.aclose()

    async def next(self) -> Frame | None:
        """Return the next event, `None` at the end of the stream."""
        with anyio.fail_after(DEADLINE):
            fields: dict[str, str] = {}
            async for line in self._lines:
                if line.startswith(":"):
                    self.comments.append(line)
                elif line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif fields:
                    data = fields.get("data")
                    retry = fields.get("retry")
                    return Frame(fields.get("id"), json.loads(data) if data else None, int(retry) if retry else None)
        return None

    async def comment(self) -> str:
        """Return the next comment; events before it are passed over."""
        with anyio.fail_after(DEADLINE):
            async for line in self._lines:
                if line.startswith(":"):
                    return line
        raise AssertionError("the stream ended")

    async def message(self) -> Any:
        """Return the next message; priming events are passed over."""
        while (frame := await self.next()) is not None:
            if frame.message is not None:
                return frame.message
        raise AssertionError("the stream ended")

    async def rest(self) -> list[Frame]:
        """Return all that comes until the end."""
        frames: list[Frame] = []
        while (frame := await self.next()) is not None:
            frames.append(frame)
        return frames


class Wire:
    """A client that speaks HTTP and JSON-RPC and nothing else.

    The gates that it names in calls are its own, and those of its forks: a test can run again on the same server.
    """

    def __init__(self, server: Address, http: httpx.AsyncClient, run: str = "") -> None:
        self.server = server
        self.http = http
        self.headers: dict[str, str] = {}
        self._ids = itertools.count(1)
        self._run = run or uuid4().hex

    @property
    def session_id(self) -> str:
        return self.headers["Mcp-Session-Id"]

    def fork(self) -> Wire:
        """Return another client without a session."""
        return Wire(self.server, self.http, self._run)

    def at(self, server: Address) -> Wire:
        """Return the same client, with the session it has now, speaking to another process."""
        other = copy(self)
        other.server = server
        return other

    def request(self, method: str, params: Any = None, *, id: str | int | None = None) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": next(self._ids) if id is None else id, "method": method}
        return message if params is None else {**message, "params": params}

    def call(self, tool: str, *, id: str | int | None = None, meta: Any = None, **arguments: Any) -> dict[str, Any]:
        if "gate" in arguments:
            arguments["gate"] = self.gate(arguments["gate"])
        if "what" in arguments:
            gate, _, note = arguments["what"].partition(": ")
            arguments["what"] = f"{self.gate(gate)}: {note}"
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        if meta is not None:
            params["_meta"] = meta
        return self.request("tools/call", params, id=id)

    def gate(self, name: str) -> str:
        """Return the name under which the server knows a gate of this client's."""
        return f"{name}@{self._run}"

    def _headers(self, given: Mapping[str, str]) -> dict[str, str]:
        accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        return {**accept, **self.headers, **given}

    async def post(self, message: Any, path: str = "", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(self.server.url + path, json=message, headers=self._headers(named))

    async def initialize(self, version: str = LATEST, capabilities: Any = None) -> httpx.Response:
        params = {
            "protocolVersion": version,
            "capabilities": capabilities or {},
            "clientInfo": {"name": "wire", "version": "1"},
        }
        return await self.post(self.request("initialize", params))

    async def open(self, version: str = LATEST, capabilities: Any = None) -> Wire:
        """Shake hands, and use the session from now on."""
        response = await self.initialize(version, capabilities)
        assert response.status_code == 200, response.text
        self.headers = {
            "Mcp-Session-Id": response.headers["Mcp-Session-Id"],
            "MCP-Protocol-Version": response.json()["result"]["protocolVersion"],
        }
        done = await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert done.status_code == 202
        return self

    async def tool(self, name: str, **arguments: Any) -> Any:
        """Call a tool and return its text, however it is answered."""
        async with self.stream(self.call(name, **arguments)) as events:
            if events.response.headers["Content-Type"] == "application/json":
                answer = json.loads(await events.response.aread())
            else:
                answer = (await events.rest())[-1].message
        assert not answer["result"].get("isError"), answer
        content = answer["result"]["content"]
        return content[0]["text"] if content else None

    @asynccontextmanager
    async def stream(self, message: Any, **headers: str) -> AsyncGenerator[Events]:
        """POST a message and read what comes as it comes."""
        async with self._open("POST", self.server.url, headers, message) as events:
            yield events

    @asynccontextmanager
    async def listen(self, last_event_id: str | None = None, path: str = "", **headers: str) -> AsyncGenerator[Events]:
        """GET a stream."""
        if last_event_id is not None:
            headers["Last_Event_ID"] = last_event_id
        async with self._open("GET", self.server.url + path, headers, None) as events:
            yield events

    @asynccontextmanager
    async def _open(self, method: str, url: str, headers: Mapping[str, str], body: Any) -> AsyncGenerator[Events]:
        named = self._headers({name.replace("_", "-"): value for name, value in headers.items()})
        async with self.http.stream(method, url, json=body, headers=named) as response:
            events = Events(response)
            try:
                yield events
            finally:
                await events.aclose()

    async def delete(self) -> httpx.Response:
        return await self.http.delete(self.server.url, headers=self._headers({}))

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        text = (await self.http.get(f"{self.server.origin}/metrics")).text
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        assert f"# TYPE {name.removesuffix('_total')}" in text, f"there is no metric {name}"
        return sum(map(float, values))


@asynccontextmanager
async def wire_to(server: Address) -> AsyncGenerator[Wire]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=DEADLINE, limits=limits, verify=False) as http:
        yield Wire(server, http)


def error_code(response: httpx.Response) -> str:
    """Return the symbolic code of an error of ours, having checked its shape."""
    body = response.json()
    assert body["jsonrpc"] == "2.0"
    assert body["error"]["message"]
    return body["error"]["data"]["code"]


def text_of(message: Any) -> str:
    return message["result"]["content"][0]["text"]


def log_data(frames: Iterable[Frame]) -> list[str]:
    """Return what the log notifications among frames say."""
    return [
        frame.message["params"]["data"]
        for frame in frames
        if frame.message is not None and frame.message.get("method") == "notifications/message"
    ]


async def until(condition: Callable[[], Any]) -> Any:
    """Poll an asynchronous condition until it holds, and return its value."""
    deadline = time.monotonic() + DEADLINE
    while not (value := await condition()):
        assert time.monotonic() < deadline, "it never came to hold"
        await anyio.sleep(0.02)
    return value
