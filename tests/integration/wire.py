"""A client that speaks plain HTTP and JSON-RPC, without the SDK."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import uuid4

import anyio
import httpx

from tests.integration.waiting import DEADLINE_SECONDS

LATEST: Final = "2025-11-25"
"""The latest revision of the handshake era."""
UNPRIMED: Final = "2025-06-18"
"""A revision without priming events."""
STATELESS: Final = "2026-07-28"
"""The revision of the stateless era."""

_OPENING_NUMBER: Final = "000000000000."
"""The beginning of the id of the priming event of a GET: the numbers of events in the log begin with 1."""


@dataclass(frozen=True)
class Frame:
    """A server-sent event."""

    id: str | None
    message: Any
    retry: int | None

    @property
    def is_priming(self) -> bool:
        return self.id is not None and self.message is None


class Address(Protocol):
    """The address of a server, or of a load balancer."""

    @property
    def url(self) -> str: ...

    @property
    def origin(self) -> str: ...


class EventStream:
    """The server-sent events of a response."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.opening: Frame | None = None
        """The priming event with which a new GET stream begins; `next_frame` leaves it out."""
        self._lines = response.aiter_lines()

    async def aclose(self) -> None:
        await self._lines.aclose()

    async def next_frame(self) -> Frame | None:
        """Return the next event, and skip the priming event of a GET; `None` at the end of the stream."""
        fields: dict[str, str] = {}
        with _deadline("event"):
            async for line in self._lines:
                if line.startswith(":"):
                    continue
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif fields:
                    data = fields.get("data")
                    retry = fields.get("retry")
                    frame = Frame(fields.get("id"), json.loads(data) if data else None, int(retry) if retry else None)
                    if not (frame.id or "").startswith(_OPENING_NUMBER):
                        return frame
                    assert (frame.message, self.opening) == (None, None)
                    self.opening, fields = frame, {}
        return None

    async def next_line(self) -> str:
        """Return the next line, whatever it is."""
        with _deadline("line"):
            return await anext(self._lines)

    async def next_comment(self) -> str:
        """Return the next comment, and skip the events before it."""
        with _deadline("comment"):
            async for line in self._lines:
                if line.startswith(":"):
                    return line
        raise AssertionError("the stream ended before a comment came")

    async def next_message(self) -> Any:
        """Return the next message, and skip priming events."""
        while (frame := await self.next_frame()) is not None:
            if frame.message is not None:
                return frame.message
        raise AssertionError("the stream ended before a message came")

    async def read_to_end(self) -> list[Frame]:
        """Return all remaining events, up to the end of the stream."""
        frames: list[Frame] = []
        while (frame := await self.next_frame()) is not None:
            frames.append(frame)
        return frames

    async def read_frames(self, number: int) -> list[Frame]:
        """Return the next events, this number of them; the stream must not end before."""
        frames = [await self.next_frame() for _ in range(number)]
        assert None not in frames, f"the stream ended: {frames}"
        return [frame for frame in frames if frame is not None]


class Wire:
    """A client that speaks plain HTTP and JSON-RPC.

    The gates in its calls belong to this client and to those that `new_client` makes, so that a test can run again on
    the same server.
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

    def new_client(self) -> Wire:
        """Return another client, without a session."""
        return Wire(self.server, self.http, self._run)

    def at(self, server: Address) -> Wire:
        """Return the same client, with its present session, for requests to another server process."""
        other = copy(self)
        other.server = server
        return other

    def request(self, method: str, params: Any = None, *, id: str | int | None = None) -> dict[str, Any]:
        """Return a JSON-RPC request."""
        message = {"jsonrpc": "2.0", "id": next(self._ids) if id is None else id, "method": method}
        return message if params is None else {**message, "params": params}

    def tool_request(
        self, tool: str, *, id: str | int | None = None, meta: Any = None, **arguments: Any
    ) -> dict[str, Any]:
        """Return a request that calls a tool; gates in the arguments `gate` and `note` become those of this client."""
        if "gate" in arguments:
            arguments["gate"] = self.gate_name(arguments["gate"])
        if "note" in arguments:
            gate, _, note = arguments["note"].partition(": ")
            arguments["note"] = f"{self.gate_name(gate)}: {note}"
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        if meta is not None:
            params["_meta"] = meta
        return self.request("tools/call", params, id=id)

    def gate_name(self, gate: str) -> str:
        """Return the name of a gate of this client, as the server knows it."""
        return f"{gate}@{self._run}"

    def _merge_headers(self, given: Mapping[str, str]) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in given.items()}
        accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        return {**accept, **self.headers, **named}

    async def post(self, message: Any, path: str = "", **headers: str) -> httpx.Response:
        """POST a message and return the whole response."""
        return await self.http.post(self.server.url + path, json=message, headers=self._merge_headers(headers))

    async def initialize(self, version: str = LATEST, capabilities: Any = None) -> httpx.Response:
        """POST `initialize`, and keep the present session of the client."""
        return await self.post(self.initialize_request(version, capabilities))

    def initialize_request(self, version: str = LATEST, capabilities: Any = None) -> dict[str, Any]:
        """Return the request `initialize`."""
        params = {
            "protocolVersion": version,
            "capabilities": capabilities or {},
            "clientInfo": {"name": "wire", "version": "1"},
        }
        return self.request("initialize", params)

    async def open_session(self, version: str = LATEST, capabilities: Any = None) -> Wire:
        """Make the handshake, use the new session from now on, and return this client."""
        response = await self.initialize(version, capabilities)
        assert response.status_code == 200, response.text
        self.headers = {
            "Mcp-Session-Id": response.headers["Mcp-Session-Id"],
            "MCP-Protocol-Version": response.json()["result"]["protocolVersion"],
        }
        initialized = await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert initialized.status_code == 202
        return self

    async def send_request(self, message: Any) -> Any:
        """POST a request and return its answer, which may come as JSON or at the end of a stream."""
        async with self.post_stream(message) as events:
            if events.response.headers["Content-Type"] == "application/json":
                return json.loads(await events.response.aread())
            return (await events.read_to_end())[-1].message

    async def call_tool(self, name: str, **arguments: Any) -> Any:
        """Call a tool, which must succeed, and return the text of its result; `None` if it has no content."""
        answer = await self.send_request(self.tool_request(name, **arguments))
        assert not answer["result"].get("isError"), answer
        content = answer["result"]["content"]
        return content[0]["text"] if content else None

    @asynccontextmanager
    async def post_stream(self, message: Any, **headers: str) -> AsyncGenerator[EventStream]:
        """POST a message and read the answer while it arrives."""
        async with self._open_stream("POST", self.server.url, headers, message) as events:
            yield events

    @asynccontextmanager
    async def get_stream(
        self, last_event_id: str | None = None, path: str = "", **headers: str
    ) -> AsyncGenerator[EventStream]:
        """GET a stream; with an event id, resume after that event."""
        if last_event_id is not None:
            headers["Last_Event_ID"] = last_event_id
        async with self._open_stream("GET", self.server.url + path, headers, None) as events:
            yield events

    @asynccontextmanager
    async def get_stream_when_free(self, last_event_id: str) -> AsyncGenerator[EventStream]:
        """GET the standalone stream as soon as no process reads it for a client that has gone."""
        deadline = anyio.current_time() + DEADLINE_SECONDS
        while True:
            async with self.get_stream(last_event_id) as events:
                if events.response.status_code == 200:
                    yield events
                    return
                assert events.response.status_code == 409
                assert anyio.current_time() < deadline, "a former GET still reads the standalone stream"
            await anyio.sleep(0.05)

    @asynccontextmanager
    async def _open_stream(
        self, method: str, url: str, headers: Mapping[str, str], body: Any
    ) -> AsyncGenerator[EventStream]:
        async with self.http.stream(method, url, json=body, headers=self._merge_headers(headers)) as response:
            events = EventStream(response)
            try:
                yield events
            finally:
                await events.aclose()

    async def receive(self, after: str | None = None, wait_seconds: float = 20) -> Any:
        """Poll `/mcp/receive` and return its JSON."""
        query = f"?wait={wait_seconds}" + (f"&after={after}" if after is not None else "")
        headers = {**self.headers, "Accept": "application/json"}
        response = await self.http.get(f"{self.server.url}/receive{query}", headers=headers)
        assert response.status_code == 200, response.text
        return response.json()

    async def receive_until(
        self, is_complete: Callable[[list[Any]], bool], after: str | None = None
    ) -> tuple[list[Any], str | None]:
        """Poll `/mcp/receive` until the received events are complete; return them, and the id to resume after."""
        events: list[Any] = []
        try:
            with anyio.fail_after(DEADLINE_SECONDS):
                while not is_complete(events):
                    received = await self.receive(after)
                    after = received["after"]
                    events += received["events"]
        except TimeoutError:
            raise AssertionError(f"/mcp/receive returned no more than {events}") from None
        return events, after

    async def delete(self) -> httpx.Response:
        return await self.http.delete(self.server.url, headers=self._merge_headers({}))

    async def metrics_text(self) -> str:
        return (await self.http.get(f"{self.server.origin}/metrics")).text

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        text = await self.metrics_text()
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        assert f"# TYPE {name.removesuffix('_total')}" in text, f"there is no metric {name}"
        return sum(map(float, values))


@contextmanager
def _deadline(expected: str) -> Generator[None]:
    try:
        with anyio.fail_after(DEADLINE_SECONDS):
            yield
    except TimeoutError:
        raise AssertionError(f"no {expected} came within {DEADLINE_SECONDS:g} s") from None


@asynccontextmanager
async def open_wire(server: Address) -> AsyncGenerator[Wire]:
    """Connect a client without a session."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=DEADLINE_SECONDS, limits=limits, verify=False) as http:
        yield Wire(server, http)


def error_code(response: httpx.Response) -> str:
    """Return the symbolic code of an error of mcp-tornado, and check its shape."""
    body = response.json()
    assert body["jsonrpc"] == "2.0"
    assert body["error"]["message"]
    return body["error"]["data"]["code"]


def answer_text(message: Any) -> str:
    """Return the first text in the result of a tool call."""
    return message["result"]["content"][0]["text"]


def log_data(frames: Iterable[Frame]) -> list[str]:
    """Return the data of the log notifications among frames."""
    return [
        frame.message["params"]["data"]
        for frame in frames
        if frame.message is not None and frame.message.get("method") == "notifications/message"
    ]


def notification_names(frames: Iterable[Frame]) -> list[str]:
    """Return the methods of the notifications and requests among frames, without the prefix `notifications/`."""
    return [
        frame.message["method"].removeprefix("notifications/")
        for frame in frames
        if frame.message is not None and "method" in frame.message
    ]


def has_response(events: Iterable[Any]) -> bool:
    """Return whether one of the events of `/mcp/receive` is the answer to a request."""
    return any("method" not in event["message"] for event in events)
