"""The session check, which runs before any method of a handler."""

# pyright: reportUnknownMemberType=false
# Tornado annotates write() and finish() with a bare dict.

from __future__ import annotations

from typing import Any, ClassVar, Final

import structlog
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler

from mcp_tornado.jsonrpc import error
from mcp_tornado.kernel import HANDSHAKE_VERSIONS
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, Session, SessionError, is_well_formed, session_key, short_key
from mcp_tornado.sessions.encoding import encode
from mcp_tornado.web.headers import merge_repeated
from mcp_tornado.web.services import SERVICES_KEY, Services

_log = get_logger(__name__)

SESSION_HEADER: Final = "Mcp-Session-Id"
VERSION_HEADER: Final = "MCP-Protocol-Version"

_NOT_RUNNING_HINT: Final = (
    "serve the application inside of `async with app.lifespan():`, which opens the store and starts the server"
)

_SESSION_CODES: Final = frozenset(
    {
        ErrorCode.SESSION_REQUIRED,
        ErrorCode.SESSION_ID_MALFORMED,
        ErrorCode.SESSION_NOT_FOUND,
        ErrorCode.SESSION_EXPIRED,
    }
)


class SessionValidationMixin(RequestHandler):
    """Checks the session in `prepare()`, before any method of the handler runs, and keeps the session alive.

    Make it the first base of a handler: `class Upload(SessionValidationMixin, RequestHandler)`. The methods of the
    handler have the session as `self.session`. A request without a live session is answered with an error, and no
    method runs. A handler with its own `prepare()` must await `super().prepare()` first, and return if
    `self._finished` is true: then the request is already answered. If it does not await it, every request is answered
    with status 500, and no method runs.

    A handler in `handlers=` of `create_app` uses the sessions of that application, also if another Application serves
    its routes. Any other handler uses those of the services that its route passes,
    `(r"/upload", Upload, {"mcp_tornado": mcp_application.settings["mcp_tornado"]})`, or that its Application has:
    `existing.settings["mcp_tornado"] = mcp_application.settings["mcp_tornado"]`.
    """

    session_required: ClassVar[bool] = True
    """Whether the methods need a session; a class that sets `False` is open to every client."""

    session: Session
    """The session of the request; not set if the request needs none."""

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        self._own_services = kwargs.pop(SERVICES_KEY, None)
        super().__init__(application, request, **kwargs)
        # These hide the methods of the class until the check has passed.
        if request.method in self.SUPPORTED_METHODS:
            setattr(self, request.method.lower(), self._refuse_unchecked)
        self.data_received = _drop

    def _allow_methods(self) -> None:
        """Let the method of the request run: the check has passed, or the request needs none."""
        vars(self).pop((self.request.method or "").lower(), None)
        vars(self).pop("data_received", None)

    def _refuse_unchecked(self, *_: Any, **__: Any) -> None:
        _log.error(
            "session.unchecked",
            handler=type(self).__name__,
            hint="the handler's prepare() must be a coroutine that awaits super().prepare()",
        )
        self.write_failure(SessionError(ErrorCode.INTERNAL_ERROR))

    @property
    def services(self) -> Services:
        """The services of the handler's route, or else of its application.

        Raises:
            RuntimeError: Neither has any.
        """
        services = self._own_services or self.application.settings.get(SERVICES_KEY)
        if not isinstance(services, Services):
            raise RuntimeError(
                "this application has no sessions: create it with mcp_tornado.create_app, or share an application's: "
                'existing.settings["mcp_tornado"] = mcp_application.settings["mcp_tornado"]'
            )
        return services

    async def prepare(self) -> None:
        """Check the session; if the check fails, answer the request."""
        awaitable = super().prepare()
        if awaitable is not None:
            await awaitable
        if self._finished:
            return
        try:
            if self.needs_session():
                self.check_running()
                merge_repeated(self.request.headers)
                await self.check_session()
        except SessionError as failed:
            self.refuse(failed)
        else:
            self._allow_methods()

    def check_running(self) -> None:
        """Check that the application is inside its lifespan.

        Raises:
            SessionError: `INTERNAL_ERROR`.
        """
        if not self.services.kernel.is_running:
            _log.error("request.not_running", path=self.request.path, hint=_NOT_RUNNING_HINT)
            raise SessionError(ErrorCode.INTERNAL_ERROR, "not running")

    def refuse(self, failed: SessionError) -> None:
        """Answer the request with an error, so that no method of the handler runs."""
        self.write_failure(failed)
        self.finish()
        vars(self).pop((self.request.method or "").lower(), None)  # it refers to the handler

    def needs_session(self) -> bool:
        """Return whether this request needs a session; a CORS preflight request never does."""
        return self.session_required and self.request.method != "OPTIONS"

    async def check_session(self) -> None:
        """Check the revision of MCP, and set `session` to the session of the request.

        Raises:
            SessionError: The error for the client.
        """
        self.check_version()
        await self.load_session()

    async def load_session(self) -> None:
        """Set `session` to the session that `Mcp-Session-Id` names, and refresh it.

        Raises:
            SessionError: The error for the client.
        """
        services = self.services
        session_ids = self.request.headers.get_list(SESSION_HEADER)
        if not session_ids:
            raise SessionError(ErrorCode.SESSION_REQUIRED)
        if len(session_ids) > 1:
            raise SessionError(ErrorCode.SESSION_ID_MALFORMED, reason="sent_twice")
        session = await services.manager.validate(session_ids[0])
        if not await services.manager.refresh(session):
            raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended")
        self.session = session
        structlog.contextvars.bind_contextvars(session=short_key(session.key))
        _log.debug("session.validated")

    def check_version(self) -> None:
        """Check that `MCP-Protocol-Version`, if the request has it, is a revision of MCP with sessions.

        Raises:
            SessionError: `UNSUPPORTED_PROTOCOL_VERSION`.
        """
        version = self.request.headers.get(VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_VERSIONS:
            raise unsupported_version(version)

    def _requested_short_key(self) -> str | None:
        """Return the short key of the requested session; `None` if the request has no well-formed id."""
        session_ids = self.request.headers.get_list(SESSION_HEADER)
        if len(session_ids) != 1 or not is_well_formed(session_ids[0]):
            return None
        return short_key(session_key(session_ids[0]))

    def write_failure(self, failed: SessionError, request_id: Any = None) -> None:
        """Write an error as status, headers and body; this does not finish the response.

        Args:
            failed: The error.
            request_id: The id of the JSON-RPC request that it answers; `None` if it is unknown.
        """
        if failed.code in _SESSION_CODES:
            _log.warning(
                "session.rejected", reason=failed.reason, code=failed.code.value, session=self._requested_short_key()
            )
        self.set_status(failed.status)
        if failed.retry_after is not None:
            self.set_header("Retry-After", str(failed.retry_after))
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.write(encode(error(request_id, failed.to_error())))


def _drop(chunk: bytes) -> None:
    """Drop a piece of a body."""


def unsupported_version(version: str) -> SessionError:
    """Return the error for a revision of MCP without sessions."""
    return SessionError(
        ErrorCode.UNSUPPORTED_PROTOCOL_VERSION,
        data={"requested": version[:100], "supported": list(HANDSHAKE_VERSIONS)},
    )
