"""An application in this process, a client for it, and a store that fails on command."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel
from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPHeaders
from tornado.ioloop import IOLoop

from mcp_tornado import create_app
from mcp_tornado.stores.memory import memory_store

STATUS = {
    "SESSION_REQUIRED": 400,
    "SESSION_ID_MALFORMED": 400,
    "SESSION_NOT_FOUND": 404,
    "SESSION_EXPIRED": 404,
    "SESSION_LIMIT_REACHED": 503,
    "SESSION_CREATION_FAILED": 500,
    "SESSION_CONFLICT": 409,
    "STORE_UNAVAILABLE": 503,
    "REQUEST_NOT_FOUND": 404,
    "PARSE_ERROR": 400,
    "INVALID_REQUEST": 400,
    "UNSUPPORTED_PROTOCOL_VERSION": 400,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "NOT_ACCEPTABLE": 406,
    "METHOD_NOT_ALLOWED": 405,
    "ROUTE_NOT_FOUND": 404,
    "PAYLOAD_TOO_LARGE": 413,
    "FORBIDDEN_ORIGIN": 403,
    "MISDIRECTED_HOST": 421,
    "SERVER_DRAINING": 503,
    "INTERNAL_ERROR": 500,
}
"""The contract's table, written again: the tests must not take it from the code."""
RETRY = {"SESSION_LIMIT_REACHED", "STORE_UNAVAILABLE"}

BOTH = "application/json, text/event-stream"
OPERATIONS = (
    "create get touch update delete sweep count page ping append read wait claim release".split()  # noqa: SIM905
)


@dataclass
class Answer:
    """A whole HTTP response."""

    status: int
    headers: HTTPHeaders
    body: bytes

    @property
    def session(self) -> str:
        return self.headers["Mcp-Session-Id"]

    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json", (self.status, self.headers, self.body)
        return json.loads(self.body)

    def result(self) -> Any:
        assert self.status == 200, (self.status, self.body)
        return self.json()["result"]

    def assert_error(self, code: str, *, status: int | None = None) -> dict[str, Any]:
        """Check that this is the contract's error, whole; return the error object."""
        value = self.json()
        assert value.get("error", {}).get("data", {}).get("code") == code, (self.status, value)
        assert self.status == (status if status is not None else STATUS[code])
        assert set(value) == {"jsonrpc", "id", "error"}
        assert value["jsonrpc"] == "2.0"
        assert value["id"] is None
        error = value["error"]
        assert set(error) == {"code", "message", "data"}
        assert isinstance(error["code"], int)
        assert isinstance(error["message"], str)
        assert error["message"]
        if code in RETRY:
            assert int(self.headers["Retry-After"]) > 0
        if code == "METHOD_NOT_ALLOWED":
            assert self.headers["Allow"]
        return error


@dataclass
class Event:
    """One server-sent event."""

    fields: dict[str, str]

    @property
    def id(self) -> str | None:
        return self.fields.get("id")

    @property
    def message(self) -> Any:
        data = self.fields.get("data")
        return json.loads(data) if data else None


class Connection:
    """One raw HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._lines: list[str] = []
        self.status = 0
        self.headers = HTTPHeaders()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> int:
        """Read the head of a response."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, _, rest = text.partition("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = HTTPHeaders.parse(rest)
        return self.status

    async def answer(self, method: str = "POST") -> Answer:
        """Read a whole response."""
        await self.head()
        body = b""
        if method == "HEAD" or self.status in (204, 304):
            pass
        elif self.headers.get("Transfer-Encoding") == "chunked":
            while chunk := await self._chunk():
                body += chunk
        elif "Content-Length" in self.headers:
            body = await self.reader.readexactly(int(self.headers["Content-Length"]))
        else:
            body = await self.reader.read()
        return Answer(self.status, self.headers, body)

    async def _chunk(self) -> bytes:
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def event(self) -> Event | None:
        """Read one server-sent event, `None` at the end of the response; comments are skipped."""
        while True:
            if "" in self._lines[:-1]:
                end = self._lines.index("")
                block, self._lines = self._lines[:end], self._lines[end + 1 :]
                fields = dict(line.partition(": ")[::2] for line in block if line and not line.startswith(":"))
                if fields:
                    return Event(fields)
                continue
            chunk = await self._chunk()
            if not chunk:
                return None
            text = (self._lines.pop() if self._lines else "") + chunk.decode()
            self._lines += text.split("\n")

    async def closed(self) -> bool:
        """Say whether the server has closed the connection, with nothing more to read."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.writer.close()


@dataclass
class Client:
    """What talks to the application."""

    http: AsyncHTTPClient
    base_url: str
    connections: list[Connection] = field(default_factory=list)

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc

    async def fetch(
        self,
        method: str,
        path: str,
        *,
        json_body: Any = ...,
        body: bytes | None = None,
        session: str | None = None,
        **headers: Any,
    ) -> Answer:
        """Send one request; header names are given with underscores, a value of `None` leaves one out."""
        sent = HTTPHeaders()
        if session is not None:
            sent.add("Mcp-Session-Id", session)
        if json_body is not ...:
            body = json.dumps(json_body).encode()
        if method == "POST":
            # Tornado's client would add a form's media type.
            sent["Content-Type"] = "application/json"
            body = b"" if body is None else body
        sent["Accept"] = "application/json" if path.startswith("/mcp/receive") else BOTH
        for name, value in headers.items():
            name = name.replace("_", "-")
            sent.pop(name, None)
            for one in [value] if isinstance(value, str) else value or ():
                sent.add(name, one)
        answer = await self.http.fetch(
            self.base_url + path,
            method=method,
            headers=sent,
            body=body,
            raise_error=False,
            follow_redirects=False,
            allow_nonstandard_methods=True,
            request_timeout=4,
        )
        return Answer(answer.code, answer.headers, answer.body or b"")

    async def connect(self) -> Connection:
        host, _, port = self.host.rpartition(":")
        connection = Connection(*await asyncio.open_connection(host, int(port)))
        self.connections.append(connection)
        return connection

    async def open(self, method: str, path: str, *, json_body: Any = ..., **headers: str) -> Connection:
        """Send a request on a connection of its own."""
        connection = await self.connect()
        body = b"" if json_body is ... else json.dumps(json_body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}"]
        sent = {"Accept": BOTH, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if json_body is not ...:
            sent.update({"Content-Type": "application/json", "Content-Length": str(len(body))})
        lines += [f"{name}: {value}" for name, value in sent.items()]
        await connection.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return connection

    async def stream(self, method: str, path: str, **given: Any) -> Connection:
        """Open a stream and check that it is one."""
        connection = await self.open(method, path, **given)
        await connection.head()
        assert connection.status == 200
        assert connection.headers["Content-Type"] == "text/event-stream"
        return connection

    async def initialize(self, version: str = "2025-11-25", *, ready: bool = True, **params: Any) -> str:
        """Make a session by handshake and return its id."""
        answer = await self.fetch("POST", "/mcp", json_body=initialize(version, **params))
        assert answer.result()["protocolVersion"] == version
        if ready:
            done = await self.fetch(
                "POST",
                "/mcp",
                session=answer.session,
                json_body={"jsonrpc": "2.0", "method": "notifications/initialized"},
            )
            assert (done.status, done.body) == (202, b"")
        return answer.session

    async def session(self) -> str:
        """Make a session without a handshake and return its id."""
        answer = await self.fetch("POST", "/mcp/session")
        assert answer.status == 201
        return answer.session

    async def call(self, session: str, tool: str = "echo", number: Any = 1, **arguments: Any) -> Answer:
        """Call a tool; its answer is expected as JSON."""
        return await self.fetch("POST", "/mcp", session=session, json_body=tool_call(tool, number, **arguments))


def initialize(version: str = "2025-11-25", **params: Any) -> dict[str, Any]:
    """Return an `initialize` request."""
    params = {
        "protocolVersion": version,
        "capabilities": {},
        "clientInfo": {"name": "tests", "version": "1"},
        **params,
    }
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def tool_call(tool: str = "echo", number: Any = 1, meta: Any = None, **arguments: Any) -> dict[str, Any]:
    """Return a `tools/call` request."""
    if tool == "echo":
        arguments.setdefault("text", "hello")
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    if meta is not None:
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


class Quantity(BaseModel):
    """What `ask` asks for."""

    quantity: int


class Hosted:
    """A small MCP server, and what a test needs to steer its tools."""

    def __init__(self) -> None:
        self.server = MCPServer("tests", version="1")
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.finished: list[str] = []

        @self.server.tool()
        async def echo(text: str) -> str:
            return text

        @self.server.tool()
        async def steps(ctx: Context[Any, Any]) -> str:
            await ctx.report_progress(1, 2, "half")
            await ctx.report_progress(2, 2, "whole")
            return "done"

        @self.server.tool()
        async def wait() -> str:
            self.started.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.finished.append("cancelled")
                raise
            self.finished.append("released")
            return "released"

        @self.server.tool()
        async def ask(ctx: Context[Any, Any]) -> str:
            answer = await ctx.elicit("How many?", Quantity)
            return f"{answer.action} {answer.data.quantity if answer.action == 'accept' else ''}".strip()

        @self.server.tool()
        async def chatter(ctx: Context[Any, Any]) -> str:
            """Say more than waits for a client that does not read."""
            for number in range(200):
                await ctx.report_progress(number)
            self.finished.append("chattered")
            return "done"

        @self.server.tool()
        async def fail() -> str:
            raise ValueError("a secret in a message")

        @self.server.tool()
        async def huge(ctx: Context[Any, Any], stream: bool) -> dict[str, Any]:
            if stream:
                await ctx.report_progress(1, 1)
            return {"number": 2**70}


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """A loop of the test's own: pytest-tornado's fixture of this name without what Tornado has deprecated in it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield IOLoop.current()
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def hosted() -> Hosted:
    """The MCP server that the application serves."""
    return Hosted()


@pytest.fixture
def server(hosted: Hosted) -> object:
    """The object that `create_app` is given."""
    return hosted.server


@pytest.fixture
def sections() -> dict[str, Any]:
    """The settings of the application; parametrise it to change them."""
    return {}


@pytest.fixture
def handlers() -> list[Any]:
    """Routes of the user's own."""
    return []


@pytest.fixture
def app(io_loop: Any, server: object, sections: dict[str, Any], handlers: list[Any]) -> Iterator[Any]:
    """The application, inside its lifespan."""
    application = create_app(server, handlers=handlers, **sections)
    yield from _living(io_loop, application)


def _living(io_loop: Any, application: Any) -> Iterator[Any]:
    leave = asyncio.Event()
    entered = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def live() -> None:
        async with application.lifespan():
            entered.set()
            await leave.wait()

    async def enter() -> None:
        tasks.append(asyncio.create_task(live()))
        waiting = asyncio.create_task(entered.wait())
        await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            waiting.cancel()
            tasks[0].result()

    async def left() -> None:
        leave.set()
        await tasks[0]

    io_loop.run_sync(enter, timeout=5)
    yield application
    io_loop.run_sync(left, timeout=10)


@pytest.fixture
def client(app: Any, io_loop: Any, http_client: Any, http_port: int) -> Iterator[Client]:
    """Talks to the application."""
    client = Client(http_client, f"http://127.0.0.1:{http_port}")
    yield client

    async def close() -> None:
        for connection in client.connections:
            connection.close()
            with contextlib.suppress(ConnectionError):
                await connection.writer.wait_closed()

    io_loop.run_sync(close)


class Faults:
    """Which operations of the store fail, and how: an exception that is raised, `hang`, or an event to wait for."""

    def __init__(self) -> None:
        self.of: dict[str, BaseException | asyncio.Event | str] = {}
        self.calls: list[str] = []

    async def meet(self, operation: str) -> None:
        self.calls.append(operation)
        fault = self.of.get(operation, self.of.get("*"))
        if fault == "hang":
            await asyncio.Event().wait()
        elif isinstance(fault, asyncio.Event):
            await fault.wait()
        elif isinstance(fault, BaseException):
            raise fault

    def all(self, fault: BaseException | str | None) -> None:
        self.of = {} if fault is None else {"*": fault}


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """A store plugin `faulty://`: the memory store, with faults."""
    faults = Faults()

    def make(url: str, options: Any, clock: Any) -> Any:
        store = memory_store("memory://", options, clock)

        def faulty(name: str) -> Any:
            async def operation(self: Any, *args: Any, **kwargs: Any) -> Any:
                await faults.meet(name)
                return await getattr(super(kind, self), name)(*args, **kwargs)

            return operation

        kind = type("FaultyStore", (type(store),), {name: faulty(name) for name in OPERATIONS})
        store.__class__ = kind
        return store

    point = SimpleNamespace(name="faulty", dist=None, load=lambda: make)
    monkeypatch.setattr("mcp_tornado.stores.plugins.entry_points", lambda group: [point])
    return faults


@pytest.fixture
def short_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store counts as unavailable after a moment."""
    from mcp_tornado.sessions.guard import StoreGuard

    monkeypatch.setitem(StoreGuard.run.__kwdefaults__, "timeout", 0.02)


@pytest.fixture(scope="session")
def helpers() -> SimpleNamespace:
    """What test modules cannot import from here."""
    return SimpleNamespace(
        initialize=initialize,
        tool_call=tool_call,
        living=_living,
        hosted=Hosted,
        connection=Connection,
        status=STATUS,
        answer=Answer,
    )
