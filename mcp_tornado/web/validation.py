"""The session check in front of handlers."""

# pyright: reportUnknownMemberType=false
# Tornado annotates write() and finish() with a bare dict.

from __future__ import annotations

from typing import Any, ClassVar, Final

import structlog
from tornado.web import RequestHandler

from mcp_tornado.jsonrpc import error
from mcp_tornado.kernel import HANDSHAKE_VERSIONS
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, Session, SessionError, is_well_formed, session_key, short_key
from mcp_tornado.sessions.encoding import encode
from mcp_tornado.web.services import SERVICES_KEY, Services

_log = get_logger(__name__)

SESSION_HEADER: Final = "Mcp-Session-Id"
VERSION_HEADER: Final = "MCP-Protocol-Version"

_SESSION_CODES: Final = frozenset(
    {
        ErrorCode.SESSION_REQUIRED,
        ErrorCode.SESSION_ID_MALFORMED,
        ErrorCode.SESSION_NOT_FOUND,
        ErrorCode.SESSION_EXPIRED,
    }
)


class SessionValidationMixin(RequestHandler):
    """Checks the session in `prepare()`, before any method of the handler runs, and keeps it alive.

    Put it first among the bases of a handler: `class Upload(SessionValidationMixin, RequestHandler)`. The
    handler's methods find the session in `self.session`; a request without a live one is answered with the error
    that the table names, and none of the methods run. A handler with a `prepare()` of its own awaits
    `super().prepare()` first, and returns where `self._finished` says that the request was answered.

    The handler's application must be an `MCPApplication`, or share what one checks sessions with:
    `existing.settings["mcp_tornado"] = mcp_application.settings["mcp_tornado"]`.
    """

    session_required: ClassVar[bool] = True
    """Whether every method needs a session; a class that sets it to `False` is open to all."""

    session: Session
    """The session of the request; there is none where none is required."""

    @property
    def services(self) -> Services:
        """The parts of the application that check sessions."""
        services = self.application.settings.get(SERVICES_KEY)
        if not isinstance(services, Services):
            raise RuntimeError(
                "this application knows no sessions: create it with mcp_tornado.create_app, or share one's: "
                'existing.settings["mcp_tornado"] = mcp_application.settings["mcp_tornado"]'
            )
        return services

    async def prepare(self) -> None:
        """Check the session; answers the request itself where that fails."""
        before = super().prepare()
        if before is not None:
            await before
        if self._finished or not self.needs_session():
            return
        try:
            await self.check_session()
        except SessionError as failed:
            self.refuse(failed)

    def refuse(self, failed: SessionError) -> None:
        """Answer the request with an error, so that no method of the handler runs."""
        self.write_failure(failed)
        self.finish()

    def needs_session(self) -> bool:
        """Say whether this request needs a session; a CORS preflight never does."""
        return self.session_required and self.request.method != "OPTIONS"

    async def check_session(self) -> None:
        """Find the session of the request and refresh it.

        Raises:
            SessionError: What the client is to be told.
        """
        services = self.services
        self.check_version()
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
        """Check that the request speaks a revision of MCP that has sessions, if it says which it speaks.

        Raises:
            SessionError: `UNSUPPORTED_PROTOCOL_VERSION`.
        """
        version = self.request.headers.get(VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_VERSIONS:
            raise unsupported_version(version)

    def _short_key(self) -> str | None:
        """Return what logs may show of the session that was asked for, `None` where no id of one was sent."""
        session_ids = self.request.headers.get_list(SESSION_HEADER)
        if len(session_ids) != 1 or not is_well_formed(session_ids[0]):
            return None
        return short_key(session_key(session_ids[0]))

    def write_failure(self, failed: SessionError, request_id: Any = None) -> None:
        """Write an error of ours as status, headers and body; it does not finish the request.

        Args:
            failed: The error.
            request_id: The id of the JSON-RPC request that it answers, `None` where that is not known.
        """
        if failed.code in _SESSION_CODES:
            _log.warning("session.rejected", reason=failed.reason, code=failed.code.value, session=self._short_key())
        self.set_status(failed.status)
        if failed.retry_after is not None:
            self.set_header("Retry-After", str(failed.retry_after))
        self.set_header("Content-Type", "application/json")
        self.write(encode(error(request_id, failed.to_error())))


def unsupported_version(version: str) -> SessionError:
    """Return the error for a revision of MCP that has no sessions here."""
    return SessionError(
        ErrorCode.UNSUPPORTED_PROTOCOL_VERSION,
        data={"requested": version[:100], "supported": list(HANDSHAKE_VERSIONS)},
    )
