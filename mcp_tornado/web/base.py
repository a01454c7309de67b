"""What all handlers of ours share: the checks before a request, the errors, CORS, the traces it leaves."""

# pyright: reportUnknownMemberType=false
# Tornado annotates write() and finish() with a bare dict.

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from email.utils import formatdate
from functools import lru_cache
from types import TracebackType
from typing import Any, ClassVar, Final, Protocol

import structlog
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, stream_request_body

from mcp_tornado.hosting import InboundRequest
from mcp_tornado.log import INFO, get_logger
from mcp_tornado.metrics import OTHER
from mcp_tornado.sessions import ClientInfo, ErrorCode, SessionError
from mcp_tornado.sessions.encoding import encode
from mcp_tornado.streams.frames import Frame, FrameReader
from mcp_tornado.web.services import Services
from mcp_tornado.web.validation import SESSION_HEADER, SessionValidationMixin

_log = get_logger(__name__)

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"

_METHODS: Final = ("GET", "POST", "DELETE", "OPTIONS")
_CORS_HEADERS: Final = (
    "Content-Type",
    "Accept",
    "Authorization",
    "Mcp-Session-Id",
    "MCP-Protocol-Version",
    "Last-Event-ID",
    "Mcp-Method",
    "Mcp-Name",
)
_CORS_PREFIX: Final = "mcp-param-"
_CORS_MAX_AGE: Final = "600"

_NUMBERS: Final = itertools.count(1)
"""Requests are numbered, with the process before the number: unique enough to find one in the logs."""

_DISCARD_SECONDS: Final = 5.0
"""How long the rest of a body that is too large is read, so that the client sees the answer."""
_DISCARD_BYTES: Final = 64 * 1024 * 1024
_MAX_DIGITS: Final = 15
"""A longer Content-Length is larger than anything."""

_STATUS_CODES: Final = {
    404: ErrorCode.ROUTE_NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.PAYLOAD_TOO_LARGE,
}
"""What Tornado refuses by itself, in our table."""


class Exchange(Protocol):
    """What the kernel answers one POST with."""

    def disconnect(self) -> None:
        """Say that the client has hung up."""
        ...


@stream_request_body
class BaseHandler(SessionValidationMixin):
    """A handler of ours: denies by default, and answers every error in one shape.

    The body is collected here and not by Tornado, so that one that is too large is refused before it is read.
    """

    allowed: ClassVar[Sequence[str]] = ()
    """The methods that the handler has, beside OPTIONS."""

    checks_host: ClassVar[bool] = True
    """Whether the `Host` header is checked; probes call by address."""

    def initialize(self, services: Services) -> None:
        """Take what the handler works with."""
        self._services = services
        self._body = bytearray()
        self._body_too_large = False
        self._refused = False
        self._reader: FrameReader | None = None
        self._exchange: Exchange | None = None
        self._hung_up = False
        self._streamed = False

    @property
    def services(self) -> Services:
        """The parts of the application."""
        return self._services

    def clear(self) -> None:
        """Begin the response; Tornado calls this at the start, and before an error is written."""
        # What Tornado's own does, without checking constants again and formatting the date at every request.
        self._headers = HTTPHeaders()
        self._headers["Date"] = _date()
        self._write_buffer: list[bytes] = []
        self._status_code = 200
        self._reason = "OK"
        self.set_default_headers()

    # ------------------------------------------------------------------ before the method

    async def prepare(self) -> None:
        """Check Host, Origin, size and session, in this order."""
        request_id = f"{self.services.process}-{next(_NUMBERS)}"
        structlog.contextvars.bind_contextvars(request_id=request_id, client=self.request.remote_ip)
        self.services.active.enter(self)
        self._check_size()
        try:
            self.check_head()
            await super().prepare()
        except SessionError as failed:
            self.refuse(failed)

    def check_head(self) -> None:
        """Check what the head of the request tells.

        Raises:
            SessionError: What the client is to be told.
        """
        self._check_host()
        self._check_origin()
        if self.request.method != "OPTIONS" and self.request.method not in self.allowed:
            raise SessionError(ErrorCode.METHOD_NOT_ALLOWED)

    def refuse(self, failed: SessionError) -> None:
        """Answer the request with an error, once its body is read: so the connection can be used on."""
        self._refused = True

        def answer(*_: Any) -> None:
            raise failed

        setattr(self, (self.request.method or "").lower(), answer)

    def _check_host(self) -> None:
        hosts = self.request.headers.get_list("Host")
        if self.checks_host and (len(hosts) != 1 or not self.services.hosts.allows(hosts[0])):
            raise SessionError(ErrorCode.MISDIRECTED_HOST)

    def _check_origin(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is None:
            return
        if not self.services.origins.allows(origin):
            raise SessionError(ErrorCode.FORBIDDEN_ORIGIN)
        self._write_cors()

    def _check_size(self) -> None:
        limit = self.services.settings.server.max_body_bytes
        connection = self.request.connection
        declared = self.request.headers.get("Content-Length")
        if declared is None:
            if "Transfer-Encoding" in self.request.headers and isinstance(connection, HTTP1Connection):
                # Chunks are counted as they come; what is too much is read, but not kept.
                connection.set_max_body_size(max(limit, _DISCARD_BYTES))
            return
        if not (declared.isascii() and declared.isdigit()):
            return  # Tornado refuses it
        if len(declared) > _MAX_DIGITS or int(declared) > limit:
            # The one error that does not wait for the body.
            if len(declared) <= _MAX_DIGITS and isinstance(connection, HTTP1Connection):
                connection.set_max_body_size(int(declared))
                connection.set_body_timeout(_DISCARD_SECONDS)
            raise self._too_large()

    def _too_large(self) -> SessionError:
        limit = self.services.settings.server.max_body_bytes
        return SessionError(ErrorCode.PAYLOAD_TOO_LARGE, f"The body may have at most {limit} bytes")

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Collect the body, up to the limit."""
        if self._refused or self._body_too_large:
            return None
        if len(self._body) + len(chunk) > self.services.settings.server.max_body_bytes:
            self._body_too_large = True
            self._body.clear()
        else:
            self._body += chunk
        return None

    # ------------------------------------------------------------------ what methods use

    def body(self) -> bytes:
        """Return the body.

        Raises:
            SessionError: `PAYLOAD_TOO_LARGE`.
        """
        if self._body_too_large:
            raise self._too_large()
        return bytes(self._body)

    def check_content_type(self) -> None:
        """Check that the body is said to be JSON.

        Raises:
            SessionError: `UNSUPPORTED_MEDIA_TYPE`.
        """
        media_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != JSON:
            raise SessionError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)

    def accepts(self, media_type: str) -> bool:
        """Say whether the `Accept` header names a media type, by itself or by a wildcard; none means all."""
        return _accepts(self.request.headers.get("Accept"), media_type)

    def client(self) -> ClientInfo:
        """Return what the request says of its client."""
        return ClientInfo(remote_addr=self.request.remote_ip, user_agent=self.request.headers.get("User-Agent"))

    def inbound(self) -> InboundRequest:
        """Return the request as the kernel takes it."""
        request = self.request
        return InboundRequest(
            method=request.method or "",
            scheme=request.protocol,
            host=request.host,
            path=request.path,
            query=request.query,
            raw_headers=request.headers,
            remote_addr=request.remote_ip or "",
        )

    def write_json(self, value: Any, status: int = 200) -> None:
        """Write a value as the JSON body."""
        self.write_encoded(encode(value), status)

    def write_encoded(self, body: bytes, status: int) -> None:
        """Write a body that is JSON already."""
        self.set_status(status)
        self.set_header("Content-Type", JSON)
        self.write(body)

    def write_nothing(self, status: int) -> None:
        """Answer without a body."""
        self.set_status(status)
        self.clear_header("Content-Type")

    def attach(self, exchange: Exchange) -> None:
        """Say what is told when the client hangs up, or has done so already."""
        self._exchange = exchange
        if self._hung_up:
            exchange.disconnect()

    async def stream(self, reader: FrameReader, kind: str, *, primes: bool = True) -> None:
        """Stream a reader's frames as server-sent events until it ends or the client hangs up.

        Args:
            reader: What is read.
            kind: The label of the metric.
            primes: Whether priming events are sent.
        """
        settings = self.services.settings
        gauge = self.services.metrics.streams_active.labels(kind)
        self._reader, self._streamed = reader, True
        self.set_header("Content-Type", EVENT_STREAM)
        self.set_header("Cache-Control", "no-cache, no-transform")
        self.set_header("X-Accel-Buffering", "no")
        connection = self.request.connection
        if isinstance(connection, HTTP1Connection) and connection.stream is not None:
            connection.stream.set_nodelay(True)  # small frames leave at once
        retry: int | None = settings.events.retry_milliseconds
        gauge.inc()
        try:
            await self.flush()
            async with aclosing(reader.frames(settings.server.keepalive_seconds)) as frames:
                async for frame in frames:
                    if frame is None:
                        self.write(b": keepalive\n\n")
                    elif frame.message is not None or primes:
                        self.write(server_sent_event(frame, retry))
                        retry = None
                    else:
                        continue
                    await self.flush()
        except StreamClosedError:
            pass
        except SessionError:
            # The store is away in the middle of a stream: the client resumes later.
            _log.warning("stream.broken", kind=kind)
        finally:
            # Also where the client had hung up before there was anything to read.
            reader.close(discard_pending=True)
            self._reader = None
            gauge.dec()

    # ------------------------------------------------------------------ CORS

    def options(self) -> None:
        """Answer a CORS preflight (Fetch standard), or tell the methods."""
        self.set_header("Allow", ", ".join((*self.allowed, "OPTIONS")))
        if "Origin" in self.request.headers:
            asked = self.request.headers.get("Access-Control-Request-Headers", "").split(",")
            params = [name.strip() for name in asked if name.strip().lower().startswith(_CORS_PREFIX)]
            self.set_header("Access-Control-Allow-Methods", ", ".join((*self.allowed, "OPTIONS")))
            self.set_header("Access-Control-Allow-Headers", ", ".join((*_CORS_HEADERS, *params)))
            self.set_header("Access-Control-Max-Age", _CORS_MAX_AGE)
        self.write_nothing(204)

    def _write_cors(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is not None and self.services.origins.allows(origin):
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Expose-Headers", SESSION_HEADER)
            self.set_header("Vary", "Origin")

    # ------------------------------------------------------------------ errors and the end

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write whatever was raised in our one shape; Tornado calls this."""
        raised = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if not isinstance(raised, SessionError):
            code = _STATUS_CODES.get(status_code)
            if code is None:
                code = ErrorCode.INVALID_REQUEST if 400 <= status_code < 500 else ErrorCode.INTERNAL_ERROR
            raised = SessionError(code)
        if raised.code is ErrorCode.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join((*self.allowed_now(), "OPTIONS")))
        if raised.code is ErrorCode.SERVER_DRAINING:
            self.set_header("Connection", "close")  # the next request is better sent to another process
        if not self.request._body_future.done():  # pyright: ignore[reportPrivateUsage]
            self.set_header("Connection", "close")  # what is left of the body makes the connection useless
        self._write_cors()
        self.write_failure(raised)
        self.finish()

    def allowed_now(self) -> Sequence[str]:
        """Return the methods that this request could have used, beside OPTIONS."""
        return self.allowed

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log what is nobody's expected error; Tornado calls this."""
        if not isinstance(value, SessionError | HTTPError | StreamClosedError):
            _log.exception("request.failed", handler=type(self).__name__)

    def compute_etag(self) -> str | None:
        """Return `None`: nothing here is cacheable."""
        return None

    def on_connection_close(self) -> None:
        """Let go of what the client no longer waits for."""
        super().on_connection_close()
        self._hung_up = True
        self.services.active.leave(self)
        if self._exchange is not None:
            self._exchange.disconnect()
        if self._reader is not None:
            self._reader.close(discard_pending=True)

    def on_finish(self) -> None:
        """Count the request and log it."""
        self.services.active.leave(self)
        request, metrics = self.request, self.services.metrics
        method = request.method if request.method in _METHODS else OTHER
        seconds = request.request_time()
        metrics.count_request(
            type(self).__name__, method or OTHER, self.get_status(), None if self._streamed else seconds
        )
        if _log.is_enabled(INFO):
            _log.info(
                "http.request",
                method=request.method,
                path=request.path,
                status=self.get_status(),
                seconds=round(seconds, 6),
            )


class UnknownRoute(BaseHandler):
    """Answers whatever no route matches."""

    session_required = False

    def check_head(self) -> None:
        """Refuse."""
        self._check_host()
        raise SessionError(ErrorCode.ROUTE_NOT_FOUND)


@lru_cache(maxsize=256)
def _accepts(header: str | None, media_type: str) -> bool:
    # Clients say the same every time, so this is nearly always known already.
    if header is None:
        return True
    named = {part.partition(";")[0].strip().lower() for part in header.split(",")}
    return not named.isdisjoint({media_type, f"{media_type.partition('/')[0]}/*", "*/*"})


_dated: tuple[int, str] = (0, "")


def _date() -> str:
    """Return the present `Date` (RFC 9110, section 6.6.1), made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, formatdate(now, usegmt=True))
    return _dated[1]


def server_sent_event(frame: Frame, retry: int | None) -> bytes:
    """Return a frame as bytes of `text/event-stream` (HTML standard, server-sent events).

    Args:
        frame: A message; a priming event, which has an id and no data; or neither.
        retry: Milliseconds after which a client should come back; `None` leaves that out.
    """
    lines: list[bytes] = []
    if frame.id is not None:
        lines.append(b"id: " + frame.id.encode("ascii"))
    if retry is not None:
        lines.append(b"retry: %d" % retry)
    if frame.message is not None:
        lines.append(b"event: message")
        lines.append(b"data: " + encode(frame.message))
    elif frame.id is not None:
        lines.append(b"data: ")
    return b"\n".join(lines) + b"\n\n" if lines else b""
