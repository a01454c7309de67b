"""The base of all handlers: the checks before a request, the response, the errors, and the log and metrics after it."""

# pyright: reportUnknownMemberType=false
# Tornado annotates write() and finish() with a bare dict.

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final

import structlog
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, stream_request_body

from mcp_tornado.hosting import InboundRequest
from mcp_tornado.log import DEBUG, INFO, get_logger
from mcp_tornado.metrics import OTHER
from mcp_tornado.sessions import ClientInfo, ErrorCode, Session, SessionError
from mcp_tornado.sessions.encoding import encode
from mcp_tornado.web import cors, headers
from mcp_tornado.web.body import RequestBody
from mcp_tornado.web.errors import to_session_error
from mcp_tornado.web.services import Services
from mcp_tornado.web.validation import SessionValidationMixin

_log = get_logger(__name__)

JSON: Final = "application/json"

_METRIC_METHODS: Final = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
"""The methods that have a label of their own in metrics; a client can send any other word."""

_REQUEST_NUMBERS: Final = itertools.count(1)


@stream_request_body
class BaseHandler(SessionValidationMixin):
    """A handler that refuses every request without a session by default, and answers every error in one shape."""

    allowed_methods: ClassVar[Sequence[str]] = ()
    """The methods that the handler has, beside OPTIONS."""

    is_polled: ClassVar[bool] = False
    """Whether monitoring asks again and again; then only a request that fails is logged at INFO, others at DEBUG."""

    checks_host: ClassVar[bool] = True
    """Whether the `Host` header is checked; `False` for probes, which call a process by its address."""

    def initialize(self, services: Services) -> None:
        """Set the parts of the application that the handler uses."""
        self._services = services
        self._body = RequestBody(services.settings.server.max_body_bytes)
        self._is_refused = False
        self.is_timed = True
        """Whether metrics count the duration of the request; `False` for a stream."""

    @property
    def services(self) -> Services:
        """The parts of the application."""
        return self._services

    def clear(self) -> None:
        """Reset the response; Tornado calls this at the start, and before it writes an error."""
        # As Tornado's own method, which checks constants again and formats the date for each request.
        self._headers = HTTPHeaders()
        self._headers["Date"] = headers.current_date()
        self._headers["Cache-Control"] = "no-store"
        self._write_buffer: list[bytes] = []
        self._status_code = 200
        self._reason = "OK"
        self.set_default_headers()

    # ------------------------------------------------------------------ before the method

    def check_xsrf_cookie(self) -> None:
        """Check nothing: the routes use no cookies, and `prepare` checks Origin; Tornado calls this."""

    def check_trusted_origin(self, origin: str) -> bool:
        """Return `True`: `prepare` checks Origin; Tornado calls this."""
        return True

    async def prepare(self) -> None:
        """Check size, lifespan, Host, Origin, method and session, in this order."""
        # The name of the process makes the number unique in the logs of several processes.
        request_id = f"{self.services.process}-{next(_REQUEST_NUMBERS)}"
        structlog.contextvars.bind_contextvars(request_id=request_id, client=self.request.remote_ip)
        self.services.active.add(self)
        self._body.check_declared_size(self.request)  # raises at once: this is the only error that skips the body
        headers.merge_repeated(self.request.headers)
        try:
            self.check_running()
            self.check_head()
            await super().prepare()
        except SessionError as error:
            self.refuse(error)

    def check_head(self) -> None:
        """Check the head of the request, except for the session.

        Raises:
            SessionError: The error for the client.
        """
        self._check_host()
        self._check_origin()
        if self.request.method != "OPTIONS" and self.request.method not in self.allowed_methods:
            raise SessionError(ErrorCode.METHOD_NOT_ALLOWED)

    def refuse(self, failed: SessionError) -> None:
        """Answer the request with an error after its body is read, so that the connection stays usable."""
        self._is_refused = True

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
        self.set_headers(cors.response_headers(origin))

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Collect the body, up to `server.max_body_bytes`; Tornado calls this."""
        if not self._is_refused:
            self._body.receive(chunk)

    # ------------------------------------------------------------------ for the methods of handlers

    def body(self) -> bytes:
        """Return the body.

        Raises:
            SessionError: `PAYLOAD_TOO_LARGE`.
        """
        return self._body.content()

    async def end_refused_replies(self, session: Session, body: bytes, refused: SessionError) -> None:
        """End what waits for the replies in a refused body; after a 5xx the client may send them again."""
        if refused.status < 500:
            await self.services.kernel.end_refused_replies(session, body, refused)

    def check_content_type(self) -> None:
        """Check that `Content-Type` is JSON.

        Raises:
            SessionError: `UNSUPPORTED_MEDIA_TYPE`.
        """
        media_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != JSON:
            raise SessionError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)

    def accepts(self, media_type: str) -> bool:
        """Return whether the client accepts a media type."""
        return headers.accepts(self.request.headers.get("Accept"), media_type)

    def describe_client(self) -> ClientInfo:
        """Return what the request says about its client."""
        return ClientInfo(remote_addr=self.request.remote_ip, user_agent=self.request.headers.get("User-Agent"))

    def describe_request(self) -> InboundRequest:
        """Return the HTTP request in the form that the kernel takes."""
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
        """Write a body that is encoded as JSON."""
        self.set_status(status)
        self.set_header("Content-Type", JSON)
        self.write(body)

    def write_empty(self, status: int) -> None:
        """Answer without a body."""
        self.set_status(status)
        self.clear_header("Content-Type")

    def options(self) -> None:
        """Answer a CORS preflight request (Fetch standard), or name the methods."""
        methods = ", ".join((*self.allowed_methods, "OPTIONS"))
        self.set_header("Allow", methods)
        if "Origin" in self.request.headers:
            requested = self.request.headers.get("Access-Control-Request-Headers", "")
            self.set_headers(cors.preflight_headers(methods, requested))
        self.write_empty(204)

    def set_headers(self, values: Mapping[str, str]) -> None:
        """Set several headers of the response."""
        for name, value in values.items():
            self.set_header(name, value)

    # ------------------------------------------------------------------ errors and the end

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write any exception as an error in the one shape; Tornado calls this."""
        raised = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        error = to_session_error(raised, status_code)
        if error.code is ErrorCode.METHOD_NOT_ALLOWED:
            self.set_header("Allow", ", ".join((*self.available_methods(), "OPTIONS")))
        if error.code is ErrorCode.SERVER_DRAINING:
            self.set_header("Connection", "close")  # the client's next connection may reach another process
        if not self.request._body_future.done():  # pyright: ignore[reportPrivateUsage]
            self.set_header("Connection", "close")  # the unread body makes the connection unusable
        origin = self.request.headers.get("Origin")
        if origin is not None and self.services.origins.allows(origin):
            self.set_headers(cors.response_headers(origin))
        self.write_failure(error)
        self.finish()

    def available_methods(self) -> Sequence[str]:
        """Return the methods that this request could have used, beside OPTIONS."""
        return self.allowed_methods

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log an exception that is not an error for the client; Tornado calls this."""
        if not isinstance(value, SessionError | HTTPError | StreamClosedError):
            _log.exception("request.failed", handler=type(self).__name__)

    def compute_etag(self) -> str | None:
        """Return `None`, because the responses are not cacheable."""
        return None

    def on_connection_close(self) -> None:
        """Stop counting the request as active; Tornado calls this when the client disconnects."""
        super().on_connection_close()
        self.services.active.remove(self)

    def on_finish(self) -> None:
        """Count the request and log it; Tornado calls this after the response."""
        self.services.active.remove(self)
        request, metrics = self.request, self.services.metrics
        method = request.method if request.method in _METRIC_METHODS else OTHER
        seconds = request.request_time()
        metrics.count_request(
            type(self).__name__, method or OTHER, self.get_status(), seconds if self.is_timed else None
        )
        is_quiet = self.is_polled and self.get_status() < 400
        if _log.is_enabled(DEBUG if is_quiet else INFO):
            write = _log.debug if is_quiet else _log.info
            write(
                "http.request",
                method=request.method,
                path=request.path,
                status=self.get_status(),
                seconds=round(seconds, 6),
            )


class UnknownRoute(BaseHandler):
    """Refuses a request that no route matches."""

    session_required = False

    def check_head(self) -> None:
        """Refuse the request, after the check of Host.

        Raises:
            SessionError: `ROUTE_NOT_FOUND`, or `MISDIRECTED_HOST`.
        """
        self._check_host()
        raise SessionError(ErrorCode.ROUTE_NOT_FOUND)
