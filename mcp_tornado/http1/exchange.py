"""One request and its response: the object that Tornado uses as `HTTPConnection`."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

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

from mcp_tornado.http1.context import HTTPRequestContext
from mcp_tornado.http1.limits import MAX_BODY_BYTES
from mcp_tornado.log import get_logger

_log = get_logger(__name__)

_STATUSES_WITHOUT_BODY: Final = frozenset({204, 304})


class ExchangeConnection(Protocol):
    """The part of a connection that its exchanges use."""

    context: HTTPRequestContext

    @property
    def xheaders(self) -> bool:
        """Whether the headers of a trusted proxy replace the client's address and the protocol."""
        ...

    def copy_context(self) -> contextvars.Context:
        """Return context variables for one request."""
        ...

    def record_activity(self) -> None:
        """Restart the timeouts of the connection."""
        ...

    def send(self, data: bytes) -> asyncio.Future[None]:
        """Send bytes; the future is done when the client accepts more, and fails if the connection is closed."""
        ...

    def update_reading(self) -> None:
        """Pause or resume reading, by the amount of input that waits."""
        ...

    @property
    def is_half_closed(self) -> bool:
        """Whether the client has closed its sending side."""
        ...

    def end_half_closed(self) -> None:
        """Treat a half-closed connection as closed by the client."""
        ...

    def finish_exchange(self, exchange: Exchange) -> None:
        """Go on to the next request, or close, after a whole response."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Exchange(HTTPConnection):
    """One request of a connection and its response; handlers have it as `request.connection`."""

    def __init__(self, connection: ExchangeConnection, start_line: RequestStartLine, headers: HTTPHeaders) -> None:
        context = connection.context
        self.context = context.with_forwarded_headers(headers) if connection.xheaders else context
        self.is_received = False
        """Whether the whole request has arrived."""
        self.keep_alive = True
        """Whether the connection stays open after the response."""
        self.buffered_bytes = 0
        """Size of the part of the body that waits for the handler."""
        self.is_head_sent = False
        """Whether the head of the response was sent."""
        self.is_event_stream = False
        """Whether the response is an event stream whose head was sent."""
        self._connection = connection
        self._variables = connection.copy_context()
        self._start_line = start_line
        self._headers = headers
        self._chunks: deque[bytes] = deque()
        self._body_bytes = 0
        self._max_body_bytes = MAX_BODY_BYTES
        self._delegate: HTTPMessageDelegate | None = None
        self._is_delegate_ready = False
        self._is_expect_handled = False
        self._is_delegate_finished = False
        self._is_chunked = False
        self._unsent_bytes: int | None = None
        self._is_over = False
        self._close_callback: Callable[[], None] | None = None

    # ------------------------------------------------------------------ the request

    @property
    def is_started(self) -> bool:
        """Whether the application has received the head of the request."""
        return self._delegate is not None

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing can happen until the client sends more of the request."""
        return self._is_delegate_ready and not self.is_received and not self._chunks and not self.is_head_sent

    def start(self, app: HTTPServerConnectionDelegate) -> None:
        """Pass the head of the request to the application.

        Raises:
            HTTPInputError: Tornado refuses the request.
        """
        delegate = app.start_request(self._connection, self)
        awaitable = self._variables.run(delegate.headers_received, self._start_line, self._headers)
        self._delegate = delegate
        self._wait_for_delegate(awaitable)

    def add_body(self, chunk: bytes) -> None:
        """Buffer a piece of the body.

        Raises:
            HTTPInputError: The body is larger than its bound.
        """
        self._body_bytes += len(chunk)
        if self._body_bytes > self._max_body_bytes:
            raise HTTPInputError("the body is too large")
        if not self._is_over:
            self._chunks.append(chunk)
            self.buffered_bytes += len(chunk)

    def set_max_body_size(self, max_body_size: int) -> None:
        """Set the largest size of the body in bytes; see `tornado.http1connection.HTTP1Connection`."""
        self._max_body_bytes = max_body_size

    def _wait_for_delegate(self, awaitable: Awaitable[None] | None) -> None:
        # A method of a Tornado delegate returns an awaitable, or None if the delegate is ready at once.
        self._is_delegate_ready = awaitable is None
        if awaitable is not None:
            asyncio.ensure_future(awaitable).add_done_callback(self._continue_with_delegate)

    def _continue_with_delegate(self, finished: asyncio.Future[None]) -> None:
        if finished.cancelled() or finished.exception() is not None:
            _log.error("http.handler_failed", error=repr(finished.exception()))
            self._connection.abort()
            return
        self._is_delegate_ready = True
        self._connection.record_activity()
        self.deliver()

    def deliver(self) -> None:
        """Pass what has arrived of the body to the handler, if the handler is ready for it."""
        delegate = self._delegate
        if delegate is None:
            return
        self._send_continue()
        while self._is_delegate_ready and self._chunks and not self._is_over:
            chunk = self._chunks.popleft()
            self.buffered_bytes -= len(chunk)
            self._wait_for_delegate(self._variables.run(delegate.data_received, chunk))
        if self._is_delegate_ready and self.is_received and not self._is_delegate_finished and not self._is_over:
            self._is_delegate_finished = True
            self._variables.run(delegate.finish)
        self._connection.update_reading()

    def _send_continue(self) -> None:
        """Answer `Expect: 100-continue` (RFC 9110, section 10.1.1), unless the body has begun or is not wanted."""
        if (
            self._is_expect_handled
            or not self._is_delegate_ready
            or self._is_over
            or self.is_head_sent
            or self.is_received
            or self._body_bytes
        ):
            return
        self._is_expect_handled = True
        if self._headers.get("Expect", "").lower() == "100-continue":
            self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def disconnect(self) -> None:
        """Tell the handler that the client has disconnected."""
        if self._is_over:
            return
        self._is_over = True
        delegate = self._delegate
        if delegate is None:
            return
        callback, self._close_callback = self._close_callback, None
        if not self._is_delegate_finished:
            delegate.on_connection_close()
        elif callback is not None:
            callback()

    # ------------------------------------------------------------------ the response: HTTPConnection

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Set the function that is called when the client disconnects."""
        self._close_callback = callback

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> asyncio.Future[None]:
        """Send the head of the response, and the first piece of its body."""
        self.is_event_stream = headers.get("Content-Type", "").startswith("text/event-stream")
        if self.is_event_stream and self._connection.is_half_closed:
            self._connection.end_half_closed()
        code, reason = cast(ResponseStartLine, start_line)[1:]
        method, version = self._start_line.method, self._start_line.version
        has_body = method != "HEAD" and code not in _STATUSES_WITHOUT_BODY and code >= 200
        length = headers.get("Content-Length") if has_body else None
        self._is_chunked = has_body and version == "HTTP/1.1" and length is None
        if self._is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif has_body and length is None:
            self.keep_alive = False  # only the end of the connection marks the end of the body
        elif length is not None:
            self._unsent_bytes = int(length)
        if headers.get("Connection", "").lower() == "close" or not self.is_received:
            self.keep_alive = False
        if not self.keep_alive:
            headers["Connection"] = "close"
        elif version == "HTTP/1.0":
            headers["Connection"] = "keep-alive"
        lines = [f"HTTP/1.1 {code} {reason}", *(f"{name}: {value}" for name, value in headers.get_all())]
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
            raise ValueError("a response header contains a line break")
        data = head.encode("latin-1") + b"\r\n\r\n" + self._frame(chunk or b"")
        self.is_head_sent = True
        return self._connection.send(data)

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        """Send a piece of the body; the future is done when the client accepts more."""
        return self._connection.send(self._frame(chunk))

    def _frame(self, chunk: bytes) -> bytes:
        if self._unsent_bytes is not None:
            self._unsent_bytes -= len(chunk)
            if self._unsent_bytes < 0:
                self._connection.abort()
                raise HTTPOutputError("the response is longer than its Content-Length")
        if self._is_chunked and chunk:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        return chunk

    def finish(self) -> None:
        """End the response."""
        self._is_over = True
        self._close_callback = None
        self._chunks.clear()
        self.buffered_bytes = 0
        if not self.is_head_sent or self._unsent_bytes:
            # Nothing was sent, or less than Content-Length: only a closed connection shows that to the client.
            self._connection.abort()
            return
        if self._is_chunked:
            self._connection.send(b"0\r\n\r\n")
        self._connection.finish_exchange(self)
