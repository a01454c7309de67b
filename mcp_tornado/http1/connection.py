"""One connection: an asyncio protocol that parses requests and answers them one after another."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from contextlib import suppress
from typing import Final, Protocol, cast

import httptools
from tornado.httputil import HTTPHeaders, HTTPInputError, HTTPServerConnectionDelegate, RequestStartLine
from tornado.iostream import StreamClosedError

from mcp_tornado.http1.context import HTTPRequestContext
from mcp_tornado.http1.exchange import Exchange
from mcp_tornado.http1.limits import (
    HALF_CLOSED_SECONDS,
    IDLE_TIMEOUT_SECONDS,
    LINGER_SECONDS,
    MAX_BUFFERED_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_PIPELINED_REQUESTS,
    STALL_TIMEOUT_SECONDS,
)
from mcp_tornado.http1.target import to_origin_form
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.sessions.encoding import encode

_log = get_logger(__name__)


class ConnectionServer(Protocol):
    """The part of a server that its connections use."""

    @property
    def app(self) -> HTTPServerConnectionDelegate:
        """The application that answers the requests."""
        ...

    @property
    def xheaders(self) -> bool:
        """Whether the headers of a trusted proxy replace the client's address and the protocol."""
        ...

    @property
    def context(self) -> contextvars.Context:
        """The context variables that requests start with."""
        ...

    def add_connection(self, connection: Connection) -> None:
        """Add a connection that was accepted."""
        ...

    def remove_connection(self, connection: Connection) -> None:
        """Remove a connection that is closed."""
        ...


class Connection(asyncio.Protocol):
    """One connection: parses the input, and answers its requests one after another."""

    def __init__(self, server: ConnectionServer) -> None:
        self.xheaders: Final = server.xheaders
        self.context = HTTPRequestContext("")
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._exchanges: deque[Exchange] = deque()
        """The requests without a whole response, oldest first."""
        self._receiving: Exchange | None = None
        """The request whose body is being read."""
        self._target = b""
        self._headers = HTTPHeaders()
        self._head_bytes = 0
        """Size of the parsed part of the current head, trailers included."""
        self._unparsed_bytes = 0
        """Size of the input since the last whole head; the parser reports no header before its end."""
        self._is_in_head = False
        self._has_upgrade = False
        self._parses_body_only = False
        """Whether the parser reads the body of a request that asked for an upgrade."""
        self._ignores_input = False
        self._refusal: SessionError | None = None
        """The answer to malformed input, sent after the responses to the requests before it."""
        self._is_lost = False
        self.is_half_closed = False
        """Whether the client has closed its sending side and still waits for an answer."""
        self._is_closing = False
        self._is_writing_paused = False
        self._writers: list[asyncio.Future[None]] = []
        """The futures of `send` that wait until the client accepts more."""
        self._is_reading_paused = False
        self._active_at = self._loop.time()

    def copy_context(self) -> contextvars.Context:
        """Return a context for one request, so that a variable which its handler sets stays in this request."""
        return self._server.context.copy()

    def record_activity(self) -> None:
        """Restart the timeouts of the connection."""
        self._active_at = self._loop.time()

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection; called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.context = HTTPRequestContext(str(peer[0]) if peer else "")
        self._server.add_connection(self)

    def data_received(self, data: bytes) -> None:
        """Parse input; called by asyncio."""
        self.record_activity()
        if self._is_closing or self._ignores_input:
            return
        if self._receiving is None:
            self._unparsed_bytes += len(data)
        try:
            self._parse(data)
            if self._is_in_head and self._unparsed_bytes > MAX_HEAD_BYTES:
                raise HTTPInputError("the head of the request is too large")
        except (httptools.HttpParserError, HTTPInputError) as error:
            self._handle_malformed_input(error)
            return
        self._serve_next()

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The request is answered without the upgrade. The parser has stopped before the body.
            self._has_upgrade = False
            exchange, framing = self._exchanges[-1], self._body_framing()
            exchange.keep_alive = False
            if framing is None:
                self._complete(exchange)
                return
            self._receiving, self._parses_body_only = exchange, True
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n" + data[upgrade.args[0] :])

    def _body_framing(self) -> bytes | None:
        """Return the header line that gives the end of the last request's body; `None` if there is no body."""
        for name in ("Transfer-Encoding", "Content-Length"):
            if name in self._headers:
                return f"{name}: {self._headers[name]}".encode("latin-1")
        return None

    def eof_received(self) -> bool:
        """Close the connection, because the client has closed its sending side; called by asyncio.

        If the client still waits for answers, other than event streams, they have a short time to become ready.

        Returns:
            Whether the connection stays open for now.
        """
        if self.is_half_closed:
            return True
        self._ignores_input = True
        incomplete, self._receiving = self._receiving, None
        if incomplete is not None and incomplete in self._exchanges:
            self._exchanges.remove(incomplete)
            incomplete.disconnect()
        if self._is_closing or not self._exchanges or self._exchanges[0].is_event_stream:
            return False
        self.is_half_closed = True
        if self._refusal is None:
            self._exchanges[-1].keep_alive = False
        self._loop.call_later(HALF_CLOSED_SECONDS, self._end_unanswered, context=self.copy_context())
        return True

    def _end_unanswered(self) -> None:
        """End the requests of a half-closed connection, except one whose answer is being sent."""
        if self._exchanges and self._exchanges[0].is_head_sent and not self._exchanges[0].is_event_stream:
            self._exchanges[0].keep_alive = False
            self._disconnect_exchanges(first=1)
        elif self._exchanges:
            self.end_half_closed()

    def end_half_closed(self) -> None:
        """Treat a half-closed connection as closed by the client, after the output that is already written."""
        self._disconnect_exchanges()
        if not self._is_closing:
            self.close()

    def _disconnect_exchanges(self, first: int = 0) -> None:
        """Tell the requests from this index on that the client has disconnected."""
        ended = list(self._exchanges)[first:]
        self._exchanges = deque(list(self._exchanges)[:first])
        for exchange in ended:
            exchange.disconnect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits for the client; called by asyncio."""
        self._is_lost = True
        self._server.remove_connection(self)
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                _fail(writer)
        self._disconnect_exchanges()

    def pause_writing(self) -> None:
        """Let senders wait, because the client reads slowly; called by asyncio."""
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        """Let senders go on; called by asyncio."""
        self._is_writing_paused = False
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)
        self._serve_next()

    # ------------------------------------------------------------------ httptools

    def on_message_begin(self) -> None:
        """Begin a request; called by the parser, like the methods below."""
        if not self._parses_body_only:
            self._is_in_head = True
            self._head_bytes = 0
            self._target = b""
            self._headers = HTTPHeaders()

    def on_url(self, url: bytes) -> None:
        """Add a piece of the request target."""
        if not self._parses_body_only:
            self._count_head(len(url))
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; a trailer after the body is dropped (RFC 9110, section 6.5.1)."""
        self._count_head(len(name) + len(value) + 4)
        if not self._is_in_head:
            return
        text = name.decode("latin-1")
        # HTTPHeaders.add() checks the name and the value again, so only a repeated header goes through it.
        if text in self._headers:
            self._headers.add(text, value.decode("latin-1").strip(" \t"))
        else:
            self._headers[text] = value.decode("latin-1").strip(" \t")

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HTTPInputError("the head of the request is too large")

    def on_headers_complete(self) -> None:
        """Queue the request."""
        if self._parses_body_only:
            return
        self._is_in_head = False
        self._unparsed_bytes = 0
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise HTTPInputError(f"HTTP/{version} is not supported")
        method = self._parser.get_method().decode("latin-1")
        target = to_origin_form(self._target.decode("latin-1"), self._headers)
        exchange = Exchange(self, RequestStartLine(method, target, f"HTTP/{version}"), self._headers)
        exchange.keep_alive = self._parser.should_keep_alive()
        self._has_upgrade = self._parser.should_upgrade()
        self._receiving = exchange
        self._exchanges.append(exchange)

    def on_body(self, body: bytes) -> None:
        """Buffer a piece of the body."""
        if self._receiving is not None:
            self._receiving.add_body(body)

    def on_message_complete(self) -> None:
        """Note that the whole request has arrived."""
        # If the request asks for an upgrade, the parser calls this before the body.
        if self._receiving is not None and not self._has_upgrade:
            self._complete(self._receiving)

    def _complete(self, exchange: Exchange) -> None:
        exchange.is_received = True
        self._receiving = None
        if not exchange.keep_alive:
            self._ignores_input = True  # no request follows the last one

    # ------------------------------------------------------------------ the exchanges

    def _serve_next(self) -> None:
        """Start or continue the oldest request; do not start it while the client does not read its responses."""
        if not self._exchanges or self._is_closing or self._is_lost:
            return
        exchange = self._exchanges[0]
        if not exchange.is_started:
            if self._is_writing_paused:
                self.update_reading()
                return
            try:
                exchange.start(self._server.app)
            except HTTPInputError as error:
                self._exchanges.clear()
                self._refuse(_malformed(error))
                return
        exchange.deliver()

    def _handle_malformed_input(self, error: Exception) -> None:
        """Ignore input from malformed input on, and refuse it after the requests before it are answered."""
        self._ignores_input = True
        broken, self._receiving = self._receiving, None
        if broken is not None and broken in self._exchanges:
            if broken.is_head_sent:
                self.abort()
                return
            self._exchanges.remove(broken)
            broken.disconnect()
        if self._exchanges:
            self._refusal = _malformed(error)
            self._serve_next()
        else:
            self._refuse(_malformed(error))

    def send(self, data: bytes) -> asyncio.Future[None]:
        """Send bytes; the future is done when the client accepts more, and fails if the connection is closed."""
        sent: asyncio.Future[None] = self._loop.create_future()
        if self._is_lost or self._is_closing or self._transport.is_closing():
            _fail(sent)
            return sent
        self._transport.write(data)
        if self._is_writing_paused:
            self._writers.append(sent)
        else:
            sent.set_result(None)
        return sent

    def finish_exchange(self, exchange: Exchange) -> None:
        """Go on to the next request, or close, after a whole response."""
        if self._is_lost or not self._exchanges or self._exchanges[0] is not exchange:
            return
        self.record_activity()
        self._exchanges.popleft()
        if not exchange.is_received:
            self._linger()
        elif not exchange.keep_alive:
            self.close()
        elif self._exchanges:
            self._loop.call_soon(self._serve_next, context=self.copy_context())
        elif self._refusal is not None:
            self._refuse(self._refusal)
        self.update_reading()

    def update_reading(self) -> None:
        """Pause reading while too much input waits, and resume it afterwards."""
        is_full = len(self._exchanges) > MAX_PIPELINED_REQUESTS or any(
            exchange.buffered_bytes > MAX_BUFFERED_BODY_BYTES for exchange in self._exchanges
        )
        if is_full != self._is_reading_paused and not self._is_lost and not self._transport.is_closing():
            self._is_reading_paused = is_full
            self.record_activity()
            # asyncio reads in the context of this call, which must not be the context of a handler.
            change = self._transport.pause_reading if is_full else self._transport.resume_reading
            self.copy_context().run(change)

    def _refuse(self, error: SessionError) -> None:
        """Answer malformed input with 400, and close."""
        _log.info("http.refused", client=self.context.remote_ip, reason=error.reason)
        body = encode({"jsonrpc": "2.0", "id": None, "error": error.to_error()})
        head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        self.send(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        self._linger()

    def _linger(self) -> None:
        """Close after the client has had time to read the answer, which closing at once could take from it."""
        self._is_closing = True
        if not self._is_lost and not self._transport.is_closing():
            with suppress(OSError):
                self._transport.write_eof()
            self._loop.call_later(LINGER_SECONDS, self.abort, context=self.copy_context())

    def close(self) -> None:
        """Close after the output is sent."""
        self._is_closing = True
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if not self._is_lost:
            self._transport.abort()

    def close_if_timed_out(self, now: float) -> None:
        """Close the connection if its client has been idle or stalled for too long.

        Args:
            now: The time of the event loop, in seconds.
        """
        exchange = self._exchanges[0] if self._exchanges else None
        if self._is_reading_paused or self._is_writing_paused or not (exchange is None or exchange.waits_for_client):
            return
        is_stalled = self._is_in_head or exchange is not None
        if now - self._active_at > (STALL_TIMEOUT_SECONDS if is_stalled else IDLE_TIMEOUT_SECONDS):
            self.abort()


def _fail(writer: asyncio.Future[None]) -> None:
    writer.set_exception(StreamClosedError())
    writer.exception()  # asyncio logs an exception that nothing has retrieved, and a handler may ignore the future


def _malformed(error: Exception) -> SessionError:
    return SessionError(ErrorCode.INVALID_REQUEST, "The request is not valid HTTP/1.1", reason=str(error))
