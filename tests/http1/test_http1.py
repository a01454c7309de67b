"""The HTTP server: what clients see on their sockets, and handlers of the connections they are given."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from tornado.iostream import StreamClosedError
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler, stream_request_body

from mcp_tornado.http1 import Server

pytestmark = pytest.mark.anyio

MEGABYTE = 1_048_576
_who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Nothing is logged as an error, unless the test has looked at it (`caplog.clear()`)."""
    yield
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [(record.name, record.getMessage(), record.exc_info) for record in errors] == []


# ---------------------------------------------------------------------- the application


class Seen:
    """What handlers have seen, and what they wait for."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.began = asyncio.Event()
        self.closed = asyncio.Event()
        self.done = asyncio.Event()
        self.data = asyncio.Event()
        self.closes = 0
        self.calls = 0
        self.written = 0
        self.body = b""
        self.errors: list[BaseException] = []


class Handler(RequestHandler):
    def initialize(self, seen: Seen) -> None:
        self.seen = seen

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.seen.closes += 1
        self.seen.closed.set()


class Echo(Handler):
    async def get(self) -> None:
        self.write(f"{self.request.method} {self.request.uri}")

    head = get

    async def post(self) -> None:
        self.write(self.request.body)


class Empty(Handler):
    async def get(self) -> None:
        self.set_status(204)


class Chunks(Handler):
    async def get(self) -> None:
        for piece in ("one", "two", "", "three"):
            self.write(piece)
            await self.flush()

    head = get


class Headers(Handler):
    async def post(self) -> None:
        self.write(dict(self.request.headers.get_all()))

    get = post


class Waiting(Handler):
    """Waits, then writes in pieces."""

    async def get(self) -> None:
        self.seen.began.set()
        await self.seen.go.wait()
        try:
            for _ in range(2):
                self.write("waited")
                await self.flush()
        except StreamClosedError as error:
            self.seen.errors.append(error)
        finally:
            self.seen.done.set()

    post = get


class Finishing(Handler):
    """Waits, and then does not look whether anybody takes the answer."""

    async def get(self) -> None:
        self.seen.began.set()
        await self.seen.go.wait()
        self.write("waited")
        self.flush()
        self.write("more")
        self.finish()
        self.seen.done.set()


class Streaming(Handler):
    """Streams until told to end."""

    async def get(self) -> None:
        try:
            while not self.seen.go.is_set():
                self.write("x" * 65_536)
                await self.flush()
                self.seen.written += 65_536
                self.seen.began.set()
                await asyncio.sleep(0)
        except StreamClosedError as error:
            self.seen.errors.append(error)
        finally:
            self.seen.done.set()


class Large(Handler):
    async def get(self) -> None:
        for _ in range(64):
            self.write(b"x" * MEGABYTE)
            await self.flush()
            self.seen.written += MEGABYTE


class LargeAtOnce(Handler):
    async def get(self) -> None:
        self.seen.calls += 1
        self.write(b"x" * MEGABYTE)


@stream_request_body
class Upload(Handler):
    async def prepare(self) -> None:
        self.pieces: list[bytes] = []
        self.seen.began.set()

    def data_received(self, chunk: bytes) -> None:
        self.pieces.append(chunk)
        self.seen.data.set()

    async def post(self) -> None:
        self.write(b"".join(self.pieces))


@stream_request_body
class SlowUpload(Handler):
    """Awaits each piece."""

    async def data_received(self, chunk: bytes) -> None:
        self.seen.data.set()
        await self.seen.go.wait()
        self.seen.body += chunk

    async def post(self) -> None:
        self.write(self.seen.body)


@stream_request_body
class TaskUpload(Handler):
    """Answers to each piece with a future."""

    def data_received(self, chunk: bytes) -> asyncio.Future[None]:
        return asyncio.ensure_future(self.take(chunk))

    async def take(self, chunk: bytes) -> None:
        await self.seen.go.wait()
        self.seen.body += chunk
        self.seen.data.set()

    async def post(self) -> None:
        self.write(self.seen.body)


@stream_request_body
class FailingUpload(Handler):
    async def data_received(self, chunk: bytes) -> None:
        raise RuntimeError("no more of that")

    async def post(self) -> None:
        self.write("taken")


@stream_request_body
class Prepared(Handler):
    """Takes the body only once told to."""

    async def prepare(self) -> None:
        self.seen.began.set()
        await self.seen.go.wait()

    def data_received(self, chunk: bytes) -> None:
        self.seen.body += chunk

    async def post(self) -> None:
        self.write(self.seen.body)
        self.seen.done.set()

    def on_finish(self) -> None:
        self.seen.done.set()


@stream_request_body
class Refusing(Handler):
    """Finishes before the body is read."""

    async def prepare(self) -> None:
        self.set_status(403)
        self.finish("refused")

    def data_received(self, chunk: bytes) -> None:
        raise AssertionError("nobody asked for it")


class Breaking(Handler):
    async def get(self) -> None:
        self.set_header("X-Broken", "a\r\nX-Injected: b")


class BreakingDeeply(Handler):
    """Gets past the checks of Tornado's own."""

    async def get(self) -> None:
        self._headers._dict["X-Broken"] = "a\r\nX-Injected: b"
        self._headers._as_list["X-Broken"] = ["a\r\nX-Injected: b"]
        self.write("never")


class Unencodable(Handler):
    async def get(self) -> None:
        self.set_header("X-Price", "5 \u20ac")
        self.write("never")


class Short(Handler):
    """Promises more than it sends."""

    async def get(self) -> None:
        self.set_header("Content-Length", "10")
        self.write("12345")
        await self.flush()


class Where(Handler):
    async def get(self) -> None:
        self.write({"ip": self.request.remote_ip, "protocol": self.request.protocol})


class Who(Handler):
    """Tells the variable the handler before it has set, and sets it."""

    async def get(self) -> None:
        self.write(_who.get())
        _who.set(self.get_argument("name"))


class WhoEarly(Handler):
    def initialize(self, seen: Seen) -> None:
        super().initialize(seen)
        self.before = _who.get()
        _who.set("early")

    async def get(self) -> None:
        self.write(self.before)


class Impatient(Handler):
    """Gives up waiting for the client once, and then waits on."""

    async def get(self) -> None:
        self.write(b"x" * 32 * MEGABYTE)
        writing = self.flush()
        self.seen.began.set()
        waiting = asyncio.ensure_future(asyncio.wait_for(writing, 0.001))
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), TimeoutError)
        self.write("end")
        writing = self.flush()
        self.seen.data.set()
        try:
            await writing
        except BaseException as error:
            self.seen.errors.append(error)
        self.seen.done.set()


def application(seen: Seen) -> Application:
    handlers: dict[str, type[Handler]] = {
        "/echo.*": Echo,
        "/empty": Empty,
        "/chunks": Chunks,
        "/headers": Headers,
        "/waiting": Waiting,
        "/finishing": Finishing,
        "/streaming": Streaming,
        "/large": Large,
        "/large-at-once": LargeAtOnce,
        "/upload": Upload,
        "/slow-upload": SlowUpload,
        "/task-upload": TaskUpload,
        "/failing-upload": FailingUpload,
        "/prepared": Prepared,
        "/refusing": Refusing,
        "/breaking": Breaking,
        "/breaking-deeply": BreakingDeeply,
        "/unencodable": Unencodable,
        "/short": Short,
        "/where": Where,
        "/who": Who,
        "/who-early": WhoEarly,
        "/impatient": Impatient,
    }
    return Application([(path, handler, {"seen": seen}) for path, handler in handlers.items()], log_function=_no_log)


def _no_log(_: RequestHandler) -> None:
    pass


# ---------------------------------------------------------------------- clients


class Response:
    def __init__(self, status: int, headers: dict[str, str], body: bytes, version: str) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.version = version


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)

    def get(self, path: str, *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> None:
        self.send("\r\n".join([f"{method} {path} {version}", "Host: localhost", *headers, "", ""]))

    def post(self, path: str, body: bytes, *headers: str) -> None:
        self.get(path, f"Content-Length: {len(body)}", *headers, method="POST")
        self.send(body)

    async def head(self) -> tuple[str, int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        version, code, _ = lines[0].split(" ", 2)
        headers = [line.split(": ", 1) for line in lines[1:]]
        assert len({name.lower() for name, _ in headers}) == len(headers), headers
        return version, int(code), {name.lower(): value for name, value in headers}

    async def chunk(self) -> bytes:
        size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def response(self, *, bodiless: bool = False) -> Response:
        version, code, headers = await self.head()
        body = b""
        if not bodiless and code not in (204, 304) and code >= 200:
            if headers.get("transfer-encoding") == "chunked":
                assert "content-length" not in headers
                while piece := await self.chunk():
                    body += piece
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.read()
        return Response(code, headers, body, version)

    async def ended(self) -> bool:
        """Whether nothing more comes."""
        return await self.reader.read() == b""

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def break_off(self) -> None:
        self.writer.transport.abort()


class Site:
    def __init__(self, server: Server, port: int, seen: Seen) -> None:
        self.server = server
        self.port = port
        self.seen = seen
        self.clients: list[Client] = []

    async def connect(self, *, limit: int = 65_536) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))
        self.clients.append(client)
        return client

    async def fetch(self, path: str, *headers: str) -> Response:
        client = await self.connect()
        client.get(path, *headers)
        response = await client.response()
        await client.close()
        return response

    def check(self, seconds: float) -> None:
        """Do what the server does every few seconds, so many seconds later."""
        now = asyncio.get_running_loop().time() + seconds
        for connection in list(self.server.connections):
            connection.check(now)


@asynccontextmanager
async def serving(*, xheaders: bool = False) -> AsyncGenerator[Site]:
    before = asyncio.all_tasks()
    seen = Seen()
    server = Server(application(seen), xheaders=xheaders)
    sock, port = bind_unused_port()
    await server.listen([sock])
    site = Site(server, port, seen)
    try:
        async with asyncio.timeout(20):
            yield site
    finally:
        server.stop()
        await server.close_all_connections()
        seen.go.set()
        for client in site.clients:
            client.break_off()
        await until(lambda: asyncio.all_tasks() <= before)
    assert server.connections == set()
    assert sock.fileno() == -1


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop go on until it is so."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def turns(site: Site, count: int = 30) -> None:
    """Let the server do what it would do, as long as it serves other requests."""
    client = await site.connect()
    for _ in range(count):
        client.get("/echo")
        assert (await client.response()).status == 200
    await client.close()


def is_refusal(response: Response) -> bool:
    assert response.status == 400
    assert response.headers["content-type"] == "application/json"
    assert response.headers["connection"] == "close"
    body = json.loads(response.body)
    assert set(body) == {"jsonrpc", "id", "error"}
    assert (body["jsonrpc"], body["id"]) == ("2.0", None)
    assert set(body["error"]) >= {"code", "message"}
    assert isinstance(body["error"]["code"], int)
    return True


# ---------------------------------------------------------------------- requests and responses


async def test_a_connection_is_kept_over_several_requests() -> None:
    async with serving() as site:
        client = await site.connect()
        for number in range(5):
            client.get(f"/echo/{number}")
            response = await client.response()
            assert (response.status, response.body) == (200, f"GET /echo/{number}".encode())
            assert "connection" not in response.headers
        assert len(site.server.connections) == 1


async def test_connection_close_ends_it() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/echo", "Connection: close")
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await client.ended()


@pytest.mark.parametrize("count", [2, 16, 17, 18, 100, 2000])
async def test_pipelined_requests_are_answered_in_order(count: int) -> None:
    async with serving() as site:
        client = await site.connect()
        for number in range(count):
            client.get(f"/echo/{number}")
        for number in range(count):
            assert (await client.response()).body == f"GET /echo/{number}".encode()
        client.get("/echo/after")
        assert (await client.response()).body == b"GET /echo/after"


async def test_reading_pauses_while_too_many_requests_wait() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/waiting")
        await site.seen.began.wait()
        client.send(b"".join(b"GET /echo/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(40)))
        (connection,) = site.server.connections
        await until(lambda: not connection._transport.is_reading())
        site.seen.go.set()
        assert (await client.response()).body == b"waitedwaited"
        for number in range(40):
            assert (await client.response()).body == f"GET /echo/{number}".encode()
        await until(lambda: connection._transport.is_reading())


async def test_answers_nobody_reads_do_not_pile_up() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(200):
            client.get("/large-at-once")
        await until(lambda: site.seen.calls > 0)
        (connection,) = site.server.connections
        await turns(site, 300)
        assert connection._transport.get_write_buffer_size() < 20 * MEGABYTE
        for _ in range(200):
            assert len((await client.response()).body) == MEGABYTE


async def test_a_request_may_come_in_single_bytes() -> None:
    async with serving() as site:
        client = await site.connect()
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests = (
            b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
            b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        await until(lambda: len(site.server.connections) == 1)
        (connection,) = site.server.connections
        for byte in requests:
            connection.data_received(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.response()).body == b"hello"
        assert (await client.response()).body == b"abcde"
        for byte in requests:
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.response()).body == b"hello"
        assert (await client.response()).body == b"abcde"


@pytest.mark.parametrize("path", ["/echo", "/upload"])
async def test_a_chunked_request_body(path: str) -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(2):
            client.get(path, "Transfer-Encoding: chunked", method="POST")
            client.send(b"5\r\nhello\r\n")
            client.send(b"6;extension=1\r\n world\r\n0\r\n\r\n")
            assert (await client.response()).body == b"hello world"


@pytest.mark.parametrize("path", ["/echo", "/upload"])
@pytest.mark.parametrize("size", [0, 1, 5 * MEGABYTE])
async def test_a_request_body_with_content_length(path: str, size: int) -> None:
    async with serving() as site:
        client = await site.connect()
        body = bytes(range(256)) * (size // 256 + 1)
        for _ in range(2):
            client.post(path, body[:size])
            assert (await client.response()).body == body[:size]


async def test_trailers_are_not_headers() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/headers", "Transfer-Encoding: chunked", method="POST")
        client.send(b"1\r\nx\r\n0\r\nX-Trailer: smuggled\r\n\r\n")
        response = await client.response()
        assert b"smuggled" not in response.body


async def test_trailers_without_end_are_refused() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/upload", "Transfer-Encoding: chunked", method="POST")
        client.send(b"1\r\nx\r\n0\r\n")
        await site.seen.data.wait()
        (connection,) = site.server.connections
        for number in range(3000):
            connection.data_received(b"X-Trailer-%d: %b\r\n" % (number, b"x" * 100))
            if connection._ending or connection._lost:
                break
        assert connection._ending or connection._lost


@pytest.mark.parametrize("path", ["/echo", "/chunks"])
async def test_head_has_no_body(path: str) -> None:
    async with serving() as site:
        client = await site.connect()
        client.get(path, method="HEAD")
        response = await client.response(bodiless=True)
        assert response.status == 200
        client.get("/echo/next")
        assert (await client.response()).body == b"GET /echo/next"


async def test_204_has_no_body() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/empty")
        response = await client.response()
        assert response.status == 204
        assert not {"content-length", "transfer-encoding"} & set(response.headers)
        client.get("/echo/next")
        assert (await client.response()).body == b"GET /echo/next"


async def test_304_has_no_body() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/echo")
        etag = (await client.response()).headers["etag"]
        client.get("/echo", f"If-None-Match: {etag}")
        assert (await client.response()).status == 304
        client.get("/echo/next")
        assert (await client.response()).body == b"GET /echo/next"


async def test_http_1_0_ends_the_connection() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /echo HTTP/1.0\r\n\r\n")
        response = await client.response()
        assert (response.body, response.headers["connection"]) == (b"GET /echo", "close")
        assert await client.ended()


async def test_http_1_0_with_keep_alive() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(3):
            client.get("/echo", "Connection: keep-alive", version="HTTP/1.0")
            response = await client.response()
            assert (response.body, response.headers["connection"]) == (b"GET /echo", "keep-alive")


async def test_http_1_0_knows_no_chunks() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/chunks", "Connection: keep-alive", version="HTTP/1.0")
        response = await client.response()
        assert "transfer-encoding" not in response.headers
        assert response.headers["connection"] == "close"
        assert response.body == b"onetwothree"


async def test_a_response_without_content_length_is_chunked() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(2):
            client.get("/chunks")
            response = await client.response()
            assert response.headers["transfer-encoding"] == "chunked"
            assert response.body == b"onetwothree"


async def test_an_unknown_path_and_method() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/nowhere")
        assert (await client.response()).status == 404
        client.get("/echo", method="DELETE")
        assert (await client.response()).status == 405


async def test_a_response_shorter_than_promised_ends_the_connection() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/short")
        client.get("/echo")
        _, code, headers = await client.head()
        assert (code, headers["content-length"]) == (200, "10")
        assert await client.reader.readexactly(5) == b"12345"
        assert await client.reader.read(4) == b""


# ---------------------------------------------------------------------- Expect: 100-continue


async def test_continue_is_sent_once_the_handler_is_ready() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/prepared", "Expect: 100-continue", "Content-Length: 5", method="POST")
        await site.seen.began.wait()
        site.seen.go.set()
        assert await client.head() == ("HTTP/1.1", 100, {})
        client.send("hello")
        assert (await client.response()).body == b"hello"
        client.get("/echo")
        assert (await client.response()).status == 200


async def test_continue_is_sent_for_a_handler_that_takes_the_body_whole() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/echo", "Expect: 100-continue", "Content-Length: 5", method="POST")
        async with asyncio.timeout(5):
            assert await client.head() == ("HTTP/1.1", 100, {})
        client.send("hello")
        assert (await client.response()).body == b"hello"


async def test_continue_is_sent_once() -> None:
    async with serving() as site:
        client = await site.connect()
        site.seen.go.set()
        client.get("/task-upload", "Expect: 100-continue", "Content-Length: 10", method="POST")
        assert await client.head() == ("HTTP/1.1", 100, {})
        client.send("hello")
        await site.seen.data.wait()
        await turns(site, 3)
        client.send("world")
        response = await client.response()
        assert (response.status, response.body) == (200, b"helloworld")


async def test_continue_is_not_sent_by_a_handler_that_refuses() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/refusing", "Expect: 100-continue", "Content-Length: 5", method="POST")
        response = await client.response()
        assert (response.status, response.body) == (403, b"refused")
        assert response.headers["connection"] == "close"
        assert await client.ended()


async def test_continue_is_not_sent_for_a_body_that_is_here() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(
            "POST /prepared HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
        )
        await site.seen.began.wait()
        site.seen.go.set()
        response = await client.response()
        assert (response.status, response.body) == (200, b"hello")


# ---------------------------------------------------------------------- what is no HTTP


@pytest.mark.parametrize(
    "request_",
    [
        "garbage\r\n\r\n",
        "GET\r\n\r\n",
        "GET /echo HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "GET /echo\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Space : 1\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\n: empty\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Nul: a\x00b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Cr: a\rb\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "GET /echo HTTP/1.1\r\n\r\n",
        "POST /upload HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
        "GET /echo HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_once(request_: str) -> None:
    async with serving() as site:
        other = await site.connect()
        client = await site.connect()
        client.send(request_)
        assert is_refusal(await client.response())
        assert await client.ended()
        await client.close()
        other.get("/echo")
        assert (await other.response()).status == 200
        assert (await site.fetch("/echo")).status == 200


@pytest.mark.parametrize("size", [70_000, 200_000, 2 * MEGABYTE])
async def test_a_large_head_is_refused(size: int) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /echo HTTP/1.1\r\nHost: localhost\r\n")
        client.send(f"X-Large: {'x' * size}\r\n\r\n")
        assert is_refusal(await client.response())
        assert await client.ended()
        await client.close()
        assert (await site.fetch("/echo")).status == 200


async def test_a_large_head_without_end_is_refused() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /" + "x" * 70_000)
        assert is_refusal(await client.response())
        assert await client.ended()


async def test_a_head_of_60_kib_is_taken() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(3):
            client.get("/echo", f"X-Large: {'x' * 60_000}")
            assert (await client.response()).status == 200


async def test_what_is_no_http_after_a_request_does_not_take_its_answer() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\ngarbage\r\n\r\n")
        assert (await client.response()).body == b"GET /echo"
        assert is_refusal(await client.response())
        assert await client.ended()


async def test_what_is_no_http_while_a_handler_works_does_not_take_its_answer() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/waiting")
        await site.seen.began.wait()
        client.send("garbage\r\n\r\n")
        await turns(site)
        site.seen.go.set()
        await site.seen.done.wait()
        assert (await client.response()).body == b"waitedwaited"


@pytest.mark.parametrize("headers", ["HTTP/1.1\r\nHost: localhost\r\nConnection: close", "HTTP/1.0"])
async def test_what_follows_the_last_request_is_not_looked_at(headers: str) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(f"GET /echo {headers}\r\n\r\nGET /echo/more HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.response()).body == b"GET /echo"
        assert await client.ended()


async def test_a_body_that_breaks_off_into_garbage_ends_the_request() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/upload", "Transfer-Encoding: chunked", method="POST")
        client.send("1\r\nx\r\n")
        await site.seen.data.wait()
        client.send("garbage\r\n")
        # A handler has it, but has answered nothing yet.
        assert is_refusal(await client.response())
        assert await client.ended()
        await client.close()
        await site.seen.closed.wait()
        assert site.seen.closes == 1


# ---------------------------------------------------------------------- answers before the body is read


async def test_a_client_that_still_sends_gets_the_answer() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/refusing", f"Content-Length: {8 * MEGABYTE}", method="POST")
        client.send(b"x" * MEGABYTE)
        response = await client.response()
        assert (response.status, response.body) == (403, b"refused")
        assert response.headers["connection"] == "close"
        client.send(b"x" * 7 * MEGABYTE)
        await client.writer.drain()
        assert await client.ended()
        await client.close()
        await until(lambda: not site.server.connections)


async def test_a_refused_body_that_is_here_keeps_the_connection() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(2):
            client.send("POST /refusing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
            assert (await client.response()).status == 403


# ---------------------------------------------------------------------- bodies as they come


@pytest.mark.parametrize("path", ["/slow-upload", "/task-upload"])
async def test_a_handler_may_take_its_time_for_each_piece(path: str) -> None:
    async with serving() as site:
        client = await site.connect()
        body = b"0123456789abcdef" * (MEGABYTE // 2)
        client.post(path, body)
        await until(lambda: site.server.connections)
        (connection,) = site.server.connections
        await until(lambda: not connection._transport.is_reading())
        assert connection._exchanges[0].pending < 2 * MEGABYTE
        site.seen.go.set()
        assert (await client.response()).body == body
        client.get("/echo")
        assert (await client.response()).status == 200


async def test_a_handler_that_fails_over_a_piece_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        client = await site.connect()
        client.post("/failing-upload", b"hello")
        answer = await client.reader.read(12)
        assert answer in (b"", b"HTTP/1.1 500")
        assert (await site.fetch("/echo")).status == 200
    caplog.clear()


# ---------------------------------------------------------------------- headers nobody may send


async def test_a_header_with_a_line_break_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/breaking")
        response = await client.response()
        assert response.status == 500
        assert "x-injected" not in response.headers
        client.get("/echo")
        assert (await client.response()).status == 200
    caplog.clear()


@pytest.mark.parametrize("path", ["/breaking-deeply", "/unencodable"])
async def test_a_head_that_cannot_be_sent_does_not_mix_up_the_answers(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as site:
        client = await site.connect()
        client.get(path)
        client.get("/echo")
        # A 500, or nothing and the end, but never the answer to another request.
        answer = await client.reader.read(12)
        assert answer in (b"", b"HTTP/1.1 500")
        assert b"X-Injected" not in await client.reader.read() if not answer else True
    caplog.clear()


# ---------------------------------------------------------------------- clients that hang up


async def test_hanging_up_while_the_body_is_received() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/upload", "Content-Length: 10", method="POST")
        client.send("hello")
        await site.seen.data.wait()
        await client.close()
        await site.seen.closed.wait()
        await until(lambda: not site.server.connections)
        assert site.seen.closes == 1


async def test_hanging_up_while_a_plain_body_is_received() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/echo", "Content-Length: 10", method="POST")
        client.send("hello")
        await until(lambda: any(connection._exchanges for connection in site.server.connections))
        await client.close()
        await until(lambda: not site.server.connections)


@pytest.mark.parametrize("body", ["hel", "hello"])
async def test_hanging_up_while_the_handler_prepares(body: str) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(f"POST /prepared HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{body}")
        await site.seen.began.wait()
        await client.close()
        await site.seen.closed.wait()
        site.seen.go.set()
        await turns(site, 5)
        assert site.seen.closes == 1


@pytest.mark.parametrize("path", ["/waiting", "/finishing"])
@pytest.mark.parametrize("abruptly", [False, True])
async def test_hanging_up_while_the_handler_waits(path: str, abruptly: bool) -> None:
    async with serving() as site:
        client = await site.connect()
        client.get(path)
        await site.seen.began.wait()
        if abruptly:
            client.break_off()
        else:
            await client.close()
        await site.seen.closed.wait()
        assert site.seen.closes == 1
        site.seen.go.set()
        await site.seen.done.wait()
        assert len(site.seen.errors) == (path == "/waiting")
        await turns(site, 5)
        assert site.seen.closes == 1


@pytest.mark.parametrize("reading", [False, True])
async def test_hanging_up_while_the_handler_streams(reading: bool) -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/streaming")
        await client.reader.readexactly(100)
        if not reading:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            (connection,) = site.server.connections
            await until(lambda: connection._blocked)
        client.break_off()
        await site.seen.closed.wait()
        await site.seen.done.wait()
        assert site.seen.closes == 1
        assert [type(error) for error in site.seen.errors] == [StreamClosedError]


async def test_hanging_up_with_requests_waiting() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/waiting")
        for _ in range(5):
            client.get("/large-at-once")
        await site.seen.began.wait()
        await client.close()
        await site.seen.closed.wait()
        site.seen.go.set()
        await site.seen.done.wait()
        await turns(site, 5)
        assert site.seen.calls == 0


# ---------------------------------------------------------------------- slow readers


async def test_a_slow_reader_makes_flush_wait_and_gets_everything() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/large")
        await client.reader.readexactly(1)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (connection,) = site.server.connections
        await until(lambda: connection._blocked)
        await turns(site)
        assert site.seen.written < 32 * MEGABYTE
        assert connection._transport.get_write_buffer_size() < 2 * MEGABYTE
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.reader.readuntil(b"\r\n\r\n")
        for _ in range(64):
            assert len(await client.chunk()) == MEGABYTE
        assert await client.chunk() == b""
        client.get("/echo")
        assert (await client.response()).status == 200


async def test_a_handler_that_gave_up_waiting_may_wait_again() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/impatient")
        await site.seen.data.wait()
        response = await client.response()
        assert len(response.body) == 32 * MEGABYTE + 3
        await site.seen.done.wait()
        assert site.seen.errors == []


# ---------------------------------------------------------------------- upgrades


@pytest.mark.parametrize(
    "headers",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
        (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
    ],
)
class TestUpgrades:
    async def test_they_are_answered_as_plain_requests(self, headers: tuple[str, ...]) -> None:
        async with serving() as site:
            client = await site.connect()
            client.get("/echo", *headers)
            response = await client.response()
            assert (response.status, response.body) == (200, b"GET /echo")
            assert response.headers["connection"] == "close"
            assert await client.ended()

    async def test_so_is_one_with_a_body(self, headers: tuple[str, ...]) -> None:
        async with serving() as site:
            client = await site.connect()
            client.get("/echo", *headers, "Content-Length: 5", method="POST")
            client.send("hel")
            client.send("lo")
            response = await client.response()
            assert (response.status, response.body) == (200, b"hello")
            assert response.headers["connection"] == "close"
            assert await client.ended()

    async def test_what_follows_does_not_take_the_answer(self, headers: tuple[str, ...]) -> None:
        async with serving() as site:
            client = await site.connect()
            client.get("/waiting", *headers)
            await site.seen.began.wait()
            client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            await turns(site)
            site.seen.go.set()
            assert (await client.response()).body == b"waitedwaited"
            assert await client.ended()


# ---------------------------------------------------------------------- context variables


async def test_variables_of_one_request_are_not_the_next_ones() -> None:
    async with serving() as site:
        client = await site.connect()
        for name in "abc":
            client.get(f"/who?name={name}")
            assert (await client.response()).body == b"nobody"


@pytest.mark.parametrize("count", [3, 100])
async def test_variables_of_pipelined_requests_are_their_own(count: int) -> None:
    async with serving() as site:
        client = await site.connect()
        requests = [f"GET /who?name={number} HTTP/1.1\r\nHost: localhost\r\n\r\n" for number in range(count)]
        client.send("".join(requests))
        for _ in range(count):
            assert (await client.response()).body == b"nobody"
        # Reading was paused for many, and resumed when a handler had finished.
        client.get("/who?name=last")
        assert (await client.response()).body == b"nobody"


async def test_variables_set_on_the_way_are_not_the_next_ones() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /who-early HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        for _ in range(3):
            assert (await client.response()).body == b"nobody"
        assert (await site.fetch("/who-early")).body == b"nobody"


# ---------------------------------------------------------------------- behind a proxy


@pytest.mark.parametrize(
    ("headers", "ip", "protocol"),
    [
        ((), "127.0.0.1", "http"),
        (("X-Forwarded-For: 1.1.1.1, 2.2.2.2",), "2.2.2.2", "http"),
        (("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 3.3.3.3"), "3.3.3.3", "http"),
        (("X-Forwarded-For: 2001:db8::1",), "2001:db8::1", "http"),
        (("X-Forwarded-For: 1.1.1.1", "X-Real-Ip: 4.4.4.4"), "4.4.4.4", "http"),
        (("X-Forwarded-Proto: https",), "127.0.0.1", "https"),
        (("X-Forwarded-Proto: http, https",), "127.0.0.1", "https"),
        (("X-Scheme: https",), "127.0.0.1", "https"),
        (("X-Forwarded-For: 1.1.1.1, garbage",), "127.0.0.1", "http"),
        (("X-Forwarded-For:",), "127.0.0.1", "http"),
        (("X-Real-Ip: garbage", "X-Forwarded-Proto: gopher"), "127.0.0.1", "http"),
    ],
)
async def test_what_the_proxy_says(headers: tuple[str, ...], ip: str, protocol: str) -> None:
    async with serving(xheaders=True) as site:
        assert json.loads((await site.fetch("/where", *headers)).body) == {"ip": ip, "protocol": protocol}
    async with serving() as site:
        assert json.loads((await site.fetch("/where", *headers)).body) == {"ip": "127.0.0.1", "protocol": "http"}


async def test_what_the_proxy_says_holds_for_one_request() -> None:
    async with serving(xheaders=True) as site:
        client = await site.connect()
        client.get("/where", "X-Real-Ip: 4.4.4.4", "X-Scheme: https")
        assert json.loads((await client.response()).body) == {"ip": "4.4.4.4", "protocol": "https"}
        client.get("/where")
        assert json.loads((await client.response()).body) == {"ip": "127.0.0.1", "protocol": "http"}


# ---------------------------------------------------------------------- idle connections


@pytest.mark.parametrize("used", [False, True])
async def test_an_idle_connection_is_closed(used: bool) -> None:
    async with serving() as site:
        client = await site.connect()
        if used:
            client.get("/echo")
            await client.response()
        await until(lambda: site.server.connections)
        site.check(590)
        await turns(site, 3)
        assert len(site.server.connections) >= 1
        client.get("/echo")
        assert (await client.response()).status == 200
        site.check(610)
        assert await client.ended()
        await until(lambda: not site.server.connections)


@pytest.mark.parametrize(
    "part", ["GET", "GET /echo HTTP/1.1\r\nHost: ", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel"]
)
async def test_a_stalled_connection_is_closed(part: str) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(part)
        await until(lambda: any(connection._in_head or connection._exchanges for connection in site.server.connections))
        site.check(50)
        assert not any(connection._transport.is_closing() for connection in site.server.connections)
        site.check(70)
        assert await client.ended()
        await until(lambda: not site.server.connections)


async def test_a_connection_whose_handler_works_is_kept() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/waiting")
        client.send("GET /echo HT")
        await site.seen.began.wait()
        site.check(100_000)
        await turns(site, 3)
        site.seen.go.set()
        assert (await client.response()).body == b"waitedwaited"


async def test_a_connection_whose_handler_streams_is_kept() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/streaming")
        await site.seen.began.wait()
        site.check(100_000)
        await turns(site, 3)
        site.seen.go.set()
        response = await client.response()
        assert response.body
        assert not response.body.strip(b"x")


async def test_a_client_that_waits_for_the_word_to_go_on_is_not_stalled() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/prepared", "Expect: 100-continue", "Content-Length: 5", method="POST")
        await site.seen.began.wait()
        (connection,) = site.server.connections
        site.check(100)
        assert not connection._transport.is_closing()
        site.seen.go.set()
        assert (await client.head())[1] == 100
        client.send("hello")
        assert (await client.response()).body == b"hello"


async def test_a_client_the_server_has_stopped_reading_is_not_stalled() -> None:
    async with serving() as site:
        client = await site.connect()
        client.post("/prepared", b"x" * 8 * MEGABYTE)
        await site.seen.began.wait()
        (connection,) = site.server.connections
        await until(lambda: not connection._transport.is_reading())
        site.check(100)
        assert not connection._transport.is_closing()
        site.seen.go.set()
        assert len((await client.response()).body) == 8 * MEGABYTE


# ---------------------------------------------------------------------- the end


async def test_stop_refuses_new_connections_and_serves_the_open_ones() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/waiting")
        await site.seen.began.wait()
        site.server.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", site.port)
        site.seen.go.set()
        assert (await client.response()).body == b"waitedwaited"
        client.get("/echo")
        assert (await client.response()).status == 200


async def test_closing_lets_what_was_written_go_out() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/large-at-once")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: site.seen.calls)
        (connection,) = site.server.connections
        await until(lambda: not connection._exchanges)
        site.server.stop()
        closing = asyncio.create_task(site.server.close_all_connections())
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await client.response()).body) == MEGABYTE
        assert await client.ended()
        await closing
        assert site.server.connections == set()


async def test_closing_does_not_wait_for_a_client_that_never_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_tornado.http1.server._CLOSE_SECONDS", 0.01)
    async with serving() as site:
        client = await site.connect()
        client.get("/streaming")
        await client.reader.readexactly(1)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (connection,) = site.server.connections
        await until(lambda: connection._blocked)
        site.server.stop()
        await site.server.close_all_connections()
        assert site.server.connections == set()
        await site.seen.done.wait()
        assert site.seen.closes == 1
        assert [type(error) for error in site.seen.errors] == [StreamClosedError]


async def test_closing_tells_the_handlers() -> None:
    async with serving() as site:
        client = await site.connect()
        client.get("/waiting")
        await site.seen.began.wait()
        site.server.stop()
        await site.server.close_all_connections()
        assert site.seen.closes == 1
        assert await client.ended()
        site.seen.go.set()
        await site.seen.done.wait()
        assert [type(error) for error in site.seen.errors] == [StreamClosedError]


async def test_closing_twice_and_with_nothing_open() -> None:
    async with serving() as site:
        await site.server.close_all_connections()
        assert (await site.fetch("/echo")).status == 200
        site.server.stop()
        site.server.stop()
        await site.server.close_all_connections()
        await site.server.close_all_connections()
