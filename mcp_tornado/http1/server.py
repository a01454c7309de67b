"""An HTTP/1.1 server for Tornado applications that costs a request less than Tornado's own does.

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
    HTTPOutputError,
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
        self.keep_alive = True
        self.pending = 0
        """Bytes of the body that wait for the handler."""
        self.head_sent = False
        self._connection = connection
        self._variables = connection.new_context()
        self._start_line = start_line
        self._headers = headers
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._max_size = _MAX_BODY_BYTES
        self._delegate: HTTPMessageDelegate | None = None
        self._ready = False
        self._continued = False
        self._handed_over = False
        self._chunked = False
        self._unsent: int | None = None
        self._over = False
        self._close_callback: Callable[[], None] | None = None

    # ------------------------------------------------------------------ the request

    @property
    def started(self) -> bool:
        """Whether the application has it."""
        return self._delegate is not None

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client's turn: to send on what it has begun."""
        return self._ready and not self.received and not self._chunks and not self.head_sent

    def start(self, app: HTTPServerConnectionDelegate) -> None:
        """Give the request to the application.

        Raises:
            HTTPInputError: Tornado does not take it.
        """
        delegate = app.start_request(self._connection, self)
        waited_for = self._variables.run(delegate.headers_received, self._start_line, self._headers)
        self._delegate = delegate
        self._proceed_after(waited_for)

    def add(self, chunk: bytes) -> None:
        """Take a piece of the body.

        Raises:
            HTTPInputError: It is too much.
        """
        self._size += len(chunk)
        if self._size > self._max_size:
            raise HTTPInputError("the body is too large")
        if not self._over:
            self._chunks.append(chunk)
            self.pending += len(chunk)

    def set_max_body_size(self, max_body_size: int) -> None:
        """Set how many bytes the body may have; see `tornado.http1connection.HTTP1Connection`."""
        self._max_size = max_body_size

    def _proceed_after(self, waited_for: Awaitable[None] | None) -> None:
        # Tornado's delegates answer with something to wait for, or with None.
        self._ready = waited_for is None
        if waited_for is not None:
            asyncio.ensure_future(waited_for).add_done_callback(self._proceed)

    def _proceed(self, waited_for: asyncio.Future[None]) -> None:
        if waited_for.cancelled() or waited_for.exception() is not None:
            _log.error("http.handler_failed", error=repr(waited_for.exception()))
            self._connection.abort()
            return
        self._ready = True
        self._connection.touch()
        self.hand_over()

    def hand_over(self) -> None:
        """Give the handler what has come of the body, once it is ready for that."""
        delegate = self._delegate
        if delegate is None:
            return
        self._tell_to_go_on()
        while self._ready and self._chunks and not self._over:
            chunk = self._chunks.popleft()
            self.pending -= len(chunk)
            self._proceed_after(self._variables.run(delegate.data_received, chunk))
        if self._ready and self.received and not self._handed_over and not self._over:
            self._handed_over = True
            self._variables.run(delegate.finish)
        self._connection.throttle()

    def _tell_to_go_on(self) -> None:
        """Answer `Expect: 100-continue` (RFC 9110, section 10.1.1), if the body is wanted and has not come."""
        if self._continued or not self._ready or self._over or self.head_sent or self.received or self._size:
            return
        self._continued = True
        if self._headers.get("Expect", "").lower() == "100-continue":
            self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def lost(self) -> None:
        """Tell the handler that the client has hung up."""
        delegate, self._over = self._delegate, self._over or self._delegate is None
        if delegate is None or self._over:
            return
        self._over = True
        callback, self._close_callback = self._close_callback, None
        if not self._handed_over:
            delegate.on_connection_close()
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
        length = headers.get("Content-Length") if has_body else None
        self._chunked = has_body and version == "HTTP/1.1" and length is None
        if self._chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif has_body and length is None:
            self.keep_alive = False  # the end of the connection is the end of the body
        elif length is not None:
            self._unsent = int(length)
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
        data = head.encode("latin-1") + b"\r\n\r\n" + self._framed(chunk or b"")
        self.head_sent = True
        return self._connection.send(data)

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Send a piece of the body; the future is done once the client takes more."""
        return self._connection.send(self._framed(chunk))

    def _framed(self, chunk: bytes) -> bytes:
        if self._unsent is not None:
            self._unsent -= len(chunk)
            if self._unsent < 0:
                self._connection.abort()
                raise HTTPOutputError("the response is longer than its Content-Length")
        if self._chunked and chunk:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        return chunk

    def finish(self) -> None:
        """End the response."""
        self._over = True
        self._close_callback = None
        self._chunks.clear()
        self.pending = 0
        if not self.head_sent or self._unsent:
            # Nothing, or less than was promised: only the end of the connection can tell.
            self._connection.abort()
            return
        if self._chunked:
            self._connection.send(b"0\r\n\r\n")
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
        self._unparsed_bytes = 0
        self._in_head = False
        self._upgrade = False
        self._body_only = False
        self._done_reading = False
        self._refusal: SessionError | None = None
        self._lost = False
        self._ending = False
        self._blocked = False
        self._writers: list[asyncio.Future[None]] = []
        self._paused = False
        self._active_at = self._loop.time()

    def new_context(self) -> contextvars.Context:
        """Return a context for one request, so that what its handler sets is nobody else's."""
        return self._server.context.copy()

    def touch(self) -> None:
        """Note that something happened on the connection."""
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
        self.touch()
        if self._ending or self._done_reading:
            return
        if self._receiving is None:
            self._unparsed_bytes += len(data)
        try:
            self._feed(data)
            if self._in_head and self._unparsed_bytes > _MAX_HEAD_BYTES:
                raise HTTPInputError("the head of the request is too large")
        except (httptools.HttpParserError, HTTPInputError) as error:
            self._break_off(error)
            return
        self._advance()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The request is taken as it is, without the upgrade. The parser has stopped before its body.
            self._upgrade = False
            exchange, framing = self._exchanges[-1], self._framing()
            exchange.keep_alive = False
            if framing is None:
                self._complete(exchange)
                return
            self._receiving, self._body_only = exchange, True
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n" + data[upgrade.args[0] :])

    def _framing(self) -> bytes | None:
        """Return the header that tells where the body of the last request ends; `None` where it has none."""
        for name in ("Transfer-Encoding", "Content-Length"):
            if name in self._headers:
                return f"{name}: {self._headers[name]}".encode("latin-1")
        return None

    def eof_received(self) -> bool:
        """Take the end of what the client sends for the end of the connection; called by asyncio."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End; called by asyncio."""
        self._lost = True
        self._server.forget(self)
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_exception(StreamClosedError())
                writer.exception()  # nobody need look at it
        exchanges, self._exchanges = self._exchanges, deque()
        for exchange in exchanges:
            exchange.lost()

    def pause_writing(self) -> None:
        """Let writers wait: the client is slow; called by asyncio."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Let writers go on; called by asyncio."""
        self._blocked = False
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)
        self._advance()

    # ------------------------------------------------------------------ httptools

    def on_message_begin(self) -> None:
        """Begin a request; called by the parser, as the next ones are."""
        if not self._body_only:
            self._in_head = True
            self._head_bytes = 0
            self._target = b""
            self._headers = HTTPHeaders()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        if not self._body_only:
            self._count_head(len(url))
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body (trailers) is read and dropped (RFC 9110, section 6.5.1)."""
        self._count_head(len(name) + len(value) + 4)
        if not self._in_head:
            return
        text = name.decode("latin-1")
        # The parser has checked both, so add() need not do it again; it is what keeps a repeated header apart.
        if text in self._headers:
            self._headers.add(text, value.decode("latin-1").strip(" \t"))
        else:
            self._headers[text] = value.decode("latin-1").strip(" \t")

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise HTTPInputError("the head of the request is too large")

    def on_headers_complete(self) -> None:
        """Queue the request."""
        if self._body_only:
            return
        self._in_head = False
        self._unparsed_bytes = 0
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise HTTPInputError(f"HTTP/{version} is not spoken here")
        method = self._parser.get_method().decode("latin-1")
        exchange = _Exchange(
            self, RequestStartLine(method, self._target.decode("latin-1"), f"HTTP/{version}"), self._headers
        )
        exchange.keep_alive = self._parser.should_keep_alive()
        self._upgrade = self._parser.should_upgrade()
        self._receiving = exchange
        self._exchanges.append(exchange)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._receiving is not None:
            self._receiving.add(body)

    def on_message_complete(self) -> None:
        """Note that the request is here to its end."""
        # Where an upgrade is asked for, the parser says so before the body.
        if self._receiving is not None and not self._upgrade:
            self._complete(self._receiving)

    def _complete(self, exchange: _Exchange) -> None:
        exchange.received = True
        self._receiving = None
        if not exchange.keep_alive:
            self._done_reading = True  # what follows the last request is nobody's

    # ------------------------------------------------------------------ the exchanges

    def _advance(self) -> None:
        """Go on with the request whose turn it is, unless the client does not take what it was sent."""
        if not self._exchanges or self._ending or self._lost:
            return
        exchange = self._exchanges[0]
        if not exchange.started:
            if self._blocked:
                self.throttle()
                return
            try:
                exchange.start(self._server.app)
            except HTTPInputError as error:
                self._exchanges.clear()
                self._refuse(_no_http(error))
                return
        exchange.hand_over()

    def _break_off(self, error: Exception) -> None:
        """End the reading at what is no HTTP; the requests before it are still answered."""
        self._done_reading = True
        broken, self._receiving = self._receiving, None
        if broken is not None and broken in self._exchanges:
            if broken.head_sent:
                self.abort()
                return
            self._exchanges.remove(broken)
            broken.lost()
        if self._exchanges:
            self._refusal = _no_http(error)
            self._advance()
        else:
            self._refuse(_no_http(error))

    def send(self, data: bytes) -> asyncio.Future[None]:
        """Send bytes; the future is done once the client takes more, and failed where it has hung up."""
        sent: asyncio.Future[None] = self._loop.create_future()
        if self._lost or self._ending or self._transport.is_closing():
            sent.set_exception(StreamClosedError())
            sent.exception()  # nobody need look at it
            return sent
        self._transport.write(data)
        if self._blocked:
            self._writers.append(sent)
        else:
            sent.set_result(None)
        return sent

    def answered(self, exchange: _Exchange) -> None:
        """Go on to the next request, or end, after a response."""
        if self._lost or not self._exchanges or self._exchanges[0] is not exchange:
            return
        self.touch()
        self._exchanges.popleft()
        if not exchange.received:
            self._linger()
        elif not exchange.keep_alive:
            self._end()
        elif self._exchanges:
            self._loop.call_soon(self._advance, context=self.new_context())
        elif self._refusal is not None:
            self._refuse(self._refusal)
        self.throttle()

    def throttle(self) -> None:
        """Stop reading while too much waits, and read on once it does not."""
        waiting = len(self._exchanges) > _MAX_PIPELINED or any(
            exchange.pending > _MAX_PENDING_BYTES for exchange in self._exchanges
        )
        if waiting != self._paused and not self._lost and not self._transport.is_closing():
            self._paused = waiting
            self.touch()
            # asyncio reads on in the context that this is called in: it must not be a handler's.
            change = self._transport.pause_reading if waiting else self._transport.resume_reading
            self.new_context().run(change)

    def _refuse(self, error: SessionError) -> None:
        """Answer what is no request of HTTP, and end."""
        _log.info("http.refused", client=self.context.remote_ip, reason=error.reason)
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
            self._loop.call_later(_LINGER_SECONDS, self.abort, context=self.new_context())

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
        """Close a connection whose client has not done for too long what is its turn to do."""
        exchange = self._exchanges[0] if self._exchanges else None
        if self._paused or self._blocked or not (exchange is None or exchange.waits_for_client):
            return
        stalled = self._in_head or exchange is not None
        if now - self._active_at > (_STALLED_SECONDS if stalled else _IDLE_SECONDS):
            self.abort()


def _no_http(error: Exception) -> SessionError:
    return SessionError(ErrorCode.INVALID_REQUEST, "This is not valid HTTP/1.1", reason=str(error))


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
        if self._checker is None:
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
