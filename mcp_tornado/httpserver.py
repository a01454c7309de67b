"""An HTTP/1.1 server for Tornado applications that costs a request half of what Tornado's own does.

It drives an unchanged `tornado.web.Application` through Tornado's public interfaces (`httputil.HTTPConnection`,
`HTTPMessageDelegate`), on asyncio's transports and with httptools as the parser. It serves what the command line
serves: no TLS, no upgrades (WebSockets). An embedder listens with Tornado's `HTTPServer`, as always.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import httptools
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError
from tornado.netutil import is_valid_ip

from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.sessions.encoding import encode

_log = get_logger(__name__)

_MAX_HEAD_BYTES: Final = 65_536
_MAX_BODY_BYTES: Final = 104_857_600
"""No handler gets a larger body; ours refuse far smaller ones themselves."""
_MAX_PENDING_BYTES: Final = 1_048_576
"""Reading pauses while so much of a body waits for its handler."""
_MAX_PIPELINED: Final = 16
"""Reading pauses while so many requests of a connection wait for their turn (RFC 9112, section 9.3.2)."""

_IDLE_SECONDS: Final = 600.0
"""A kept connection without a request is closed after this."""
_STALLED_SECONDS: Final = 60.0
"""And so is one that has sent a part of a request, and nothing more for so long."""
_LINGER_SECONDS: Final = 5.0
"""How long the rest of a refused body is read and dropped, so that the client sees the answer."""
_CHECK_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 2.0

_NO_BODY: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class _Context:
    """Where a request comes from, as `HTTPServerRequest` asks its connection."""

    remote_ip: str
    protocol: str = "http"

    def behind_proxy(self, headers: HTTPHeaders) -> _Context:
        """Return what the proxy in front says, as Tornado's `xheaders` reads it."""
        remote_ip = headers.get("X-Forwarded-For", self.remote_ip).rpartition(",")[2].strip()
        remote_ip = headers.get("X-Real-Ip", remote_ip)
        protocol = headers.get("X-Scheme", headers.get("X-Forwarded-Proto", self.protocol)).rpartition(",")[2].strip()
        return _Context(
            remote_ip if is_valid_ip(remote_ip) else self.remote_ip,
            protocol if protocol in ("http", "https") else self.protocol,
        )


class _Exchange(HTTPConnection):
    """One request of a connection and its response: what handlers know as `request.connection`."""

    def __init__(self, connection: _Connection, start_line: RequestStartLine, headers: HTTPHeaders) -> None:
        self.context = connection.context.behind_proxy(headers) if connection.xheaders else connection.context
        self.received = False
        """Whether the request is here to its end."""
        self.pending = 0
        """Bytes of the body that wait for the handler."""
        self.keep_alive = True
        self._connection = connection
        self._start_line = start_line
        self._headers = headers
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._delegate: HTTPMessageDelegate | None = None
        self._ready = False
        self._handed_over = False
        self._chunked = False
        self._answered = False
        self._close_callback: Callable[[], None] | None = None

    # ------------------------------------------------------------------ the request

    @property
    def started(self) -> bool:
        """Whether the application has it."""
        return self._delegate is not None

    def start(self, app: HTTPServerConnectionDelegate) -> None:
        """Give the request to the application.

        Raises:
            HTTPInputError: Tornado does not take it.
        """
        self._delegate = app.start_request(self._connection, self)
        self._proceed_after(self._delegate.headers_received(self._start_line, self._headers))

    def add(self, chunk: bytes) -> bool:
        """Take a piece of the body; say whether it is not too much."""
        self._size += len(chunk)
        if not self._answered:
            self._chunks.append(chunk)
            self.pending += len(chunk)
        return self._size <= _MAX_BODY_BYTES

    def _proceed_after(self, waited_for: Awaitable[None] | None) -> None:
        # Tornado's delegates answer with a future, or with None where there is nothing to wait for.
        if not isinstance(waited_for, asyncio.Future) or waited_for.done():
            self._ready = True
            return
        self._ready = False
        waited_for.add_done_callback(self._proceed)

    def _proceed(self, _: asyncio.Future[None]) -> None:
        self._ready = True
        if self._headers.get("Expect", "").lower() == "100-continue" and not self.received and not self._answered:
            self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.hand_over()

    def hand_over(self) -> None:
        """Give the handler what has come of the body, once it is ready for that."""
        delegate = self._delegate
        while delegate is not None and self._ready and self._chunks and not self._answered:
            chunk = self._chunks.popleft()
            self.pending -= len(chunk)
            self._proceed_after(delegate.data_received(chunk))
        if delegate is not None and self._ready and self.received and not self._handed_over and not self._answered:
            self._handed_over = True
            delegate.finish()
        self._connection.throttle()

    def lost(self) -> None:
        """Tell the handler that the client has hung up."""
        if self._delegate is None or self._answered:
            return
        callback, self._close_callback = self._close_callback, None
        if not self._handed_over:
            self._delegate.on_connection_close()
        elif callback is not None:
            callback()

    # ------------------------------------------------------------------ the response: HTTPConnection

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Take what is called when the client hangs up."""
        self._close_callback = callback

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> asyncio.Future[None]:
        """Send the head of the response, and the first piece of its body."""
        code, reason = cast(ResponseStartLine, start_line)[1:]
        method, version = self._start_line.method, self._start_line.version
        has_body = method != "HEAD" and code not in _NO_BODY and code >= 200
        self._chunked = has_body and version == "HTTP/1.1" and "Content-Length" not in headers
        if self._chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif has_body and "Content-Length" not in headers:
            self.keep_alive = False  # the end of the connection is the end of the body
        if headers.get("Connection", "").lower() == "close" or not self.received:
            self.keep_alive = False
        if not self.keep_alive:
            headers["Connection"] = "close"
        elif version == "HTTP/1.0":
            headers["Connection"] = "keep-alive"
        lines = [f"HTTP/1.1 {code} {reason}", *(f"{name}: {value}" for name, value in headers.get_all())]
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
            raise ValueError("a header of the response holds a line break")
        return self._connection.send(head.encode("latin-1") + b"\r\n\r\n" + self._framed(chunk or b""))

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Send a piece of the body; the future is done once the client takes more."""
        return self._connection.send(self._framed(chunk))

    def _framed(self, chunk: bytes) -> bytes:
        if self._chunked and chunk:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        return chunk

    def finish(self) -> None:
        """End the response."""
        if self._chunked:
            self._connection.send(b"0\r\n\r\n")
        self._answered = True
        self._close_callback = None
        self._chunks.clear()
        self.pending = 0
        self._connection.answered(self)


class _Connection(asyncio.Protocol):
    """One connection: parses what comes, and lets its requests be answered one after another."""

    def __init__(self, server: Server) -> None:
        self.xheaders: Final = server.xheaders
        self.context = _Context("")
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._exchanges: deque[_Exchange] = deque()
        self._receiving: _Exchange | None = None
        self._target = b""
        self._headers = HTTPHeaders()
        self._head_bytes = 0
        self._in_head = False
        self._lost = False
        self._ending = False
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._active_at = self._loop.time()

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.context = _Context(str(peer[0]) if peer else "")
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Take what has come; called by asyncio."""
        self._active_at = self._loop.time()
        if self._ending:
            return
        if self._receiving is None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request is taken as it is, without the upgrade; what follows it cannot be parsed.
            if self._exchanges:
                self._exchanges[-1].keep_alive = False
        except (httptools.HttpParserError, HTTPInputError) as error:
            self._refuse(SessionError(ErrorCode.INVALID_REQUEST, "This is not valid HTTP/1.1", reason=str(error)))
            return
        if self._in_head and self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(SessionError(ErrorCode.INVALID_REQUEST, "The head of the request is too large"))
            return
        self._advance()

    def eof_received(self) -> bool:
        """Take the end of what the client sends for the end of the connection; called by asyncio."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End; called by asyncio."""
        self._lost = True
        self._server.forget(self)
        self.resume_writing()
        exchanges, self._exchanges = self._exchanges, deque()
        for exchange in exchanges:
            exchange.lost()

    def pause_writing(self) -> None:
        """Let writers wait: the client is slow; called by asyncio."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let writers go on; called by asyncio."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # ------------------------------------------------------------------ httptools

    def on_message_begin(self) -> None:
        """Begin a request; called by the parser, as the next ones are."""
        self._in_head = True
        self._target = b""
        self._headers = HTTPHeaders()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        text = name.decode("latin-1")
        # The parser has checked both, so add() need not do it again; it is what keeps a repeated header apart.
        if text in self._headers:
            self._headers.add(text, value.decode("latin-1").strip(" \t"))
        else:
            self._headers[text] = value.decode("latin-1").strip(" \t")

    def on_headers_complete(self) -> None:
        """Queue the request."""
        self._in_head = False
        self._head_bytes = 0
        start_line = RequestStartLine(
            self._parser.get_method().decode("latin-1"),
            self._target.decode("latin-1"),
            f"HTTP/{self._parser.get_http_version()}",
        )
        exchange = _Exchange(self, start_line, self._headers)
        exchange.keep_alive = self._parser.should_keep_alive()
        self._receiving = exchange
        self._exchanges.append(exchange)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._receiving is not None and not self._receiving.add(body):
            raise HTTPInputError("the body is too large")

    def on_message_complete(self) -> None:
        """Note that the request is here to its end."""
        if self._receiving is not None:
            self._receiving.received = True
            self._receiving = None

    # ------------------------------------------------------------------ the exchanges

    def _advance(self) -> None:
        """Go on with the request whose turn it is."""
        if self._exchanges and not self._ending:
            exchange = self._exchanges[0]
            if not exchange.started:
                try:
                    exchange.start(self._server.app)
                except HTTPInputError as error:
                    self._refuse(SessionError(ErrorCode.INVALID_REQUEST, f"This is not valid HTTP: {error}"))
                    return
            exchange.hand_over()

    def send(self, data: bytes) -> asyncio.Future[None]:
        """Send bytes; the future is done once the client takes more, and failed where it has hung up."""
        if self._lost or self._transport.is_closing():
            failed: asyncio.Future[None] = self._loop.create_future()
            failed.set_exception(StreamClosedError())
            failed.exception()  # nobody need look at it
            return failed
        self._transport.write(data)
        if self._writable is not None:
            return self._writable
        done: asyncio.Future[None] = self._loop.create_future()
        done.set_result(None)
        return done

    def answered(self, exchange: _Exchange) -> None:
        """Go on to the next request, or end, after a response."""
        if self._lost or not self._exchanges or self._exchanges[0] is not exchange:
            return
        self._active_at = self._loop.time()
        self._exchanges.popleft()
        if not exchange.received:
            self._linger()
        elif not exchange.keep_alive:
            self._end()
        elif self._exchanges:
            # In the connection's own context: the handler's variables are not the next one's.
            self._loop.call_soon(self._advance, context=self._server.context)
        self.throttle()

    def throttle(self) -> None:
        """Stop reading while too much waits, and read on once it does not."""
        waiting = len(self._exchanges) > _MAX_PIPELINED or any(
            exchange.pending > _MAX_PENDING_BYTES for exchange in self._exchanges
        )
        if waiting != self._paused and not self._lost and not self._transport.is_closing():
            self._paused = waiting
            if waiting:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _refuse(self, error: SessionError) -> None:
        """Answer what is no request of HTTP, where no response is under way, and end."""
        _log.info("http.refused", client=self.context.remote_ip, reason=error.reason)
        if not any(exchange.started for exchange in self._exchanges):
            body = encode({"jsonrpc": "2.0", "id": None, "error": error.to_error()})
            head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
            self.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._linger()

    def _linger(self) -> None:
        """Close after the client has had time to read the answer: closing at once would take that from it."""
        self._ending = True
        if not self._lost and not self._transport.is_closing():
            with suppress(OSError):
                self._transport.write_eof()
            self._loop.call_later(_LINGER_SECONDS, self.abort)

    def _end(self) -> None:
        self._ending = True
        self._transport.close()

    def close(self) -> None:
        """Close, after what was written has gone out."""
        self._end()

    def abort(self) -> None:
        """Close at once."""
        if not self._lost:
            self._transport.abort()

    def check(self, now: float) -> None:
        """Close a connection on which nothing has happened for too long."""
        waits_for_client = not self._exchanges or not self._exchanges[0].received
        stalled = self._in_head or bool(self._exchanges)
        if waits_for_client and now - self._active_at > (_STALLED_SECONDS if stalled else _IDLE_SECONDS):
            self.abort()


class Server:
    """Listens for one application.

    Args:
        app: A `tornado.web.Application`.
        xheaders: Whether to believe `X-Forwarded-For` and `X-Forwarded-Proto`, as a trusted proxy sets them.
    """

    def __init__(self, app: HTTPServerConnectionDelegate, *, xheaders: bool = False) -> None:
        self.app: Final = app
        self.xheaders: Final = xheaders
        self.context: Final = contextvars.copy_context()
        self.connections: Final[set[_Connection]] = set()
        self._servers: list[asyncio.Server] = []
        self._checker: asyncio.TimerHandle | None = None
        self._none_left = asyncio.Event()

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on sockets that are bound and listening."""
        loop = asyncio.get_running_loop()
        for listening in sockets:
            self._servers.append(await loop.create_server(partial(_Connection, self), sock=listening))
        self._checker = loop.call_later(_CHECK_SECONDS, self._check)

    def stop(self) -> None:
        """Accept no more connections; those there are, are served on."""
        for server in self._servers:
            server.close()
        if self._checker is not None:
            self._checker.cancel()

    async def close_all_connections(self) -> None:
        """Close all connections, after what was written to them has gone out, at most 2 seconds later."""
        for connection in list(self.connections):
            connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._gone()
        for connection in list(self.connections):
            connection.abort()
        await self._gone()

    def forget(self, connection: _Connection) -> None:
        """Forget a connection that is lost."""
        self.connections.discard(connection)
        if not self.connections:
            self._none_left.set()

    async def _gone(self) -> None:
        self._none_left.clear()
        if self.connections:
            await self._none_left.wait()

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            connection.check(loop.time())
        self._checker = loop.call_later(_CHECK_SECONDS, self._check)
