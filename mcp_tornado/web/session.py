"""The session route: sessions without a handshake."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from mcp_tornado.jsonrpc import decode, is_object
from mcp_tornado.sessions import ErrorCode, Session, SessionError, short_key
from mcp_tornado.web.base import BaseHandler
from mcp_tornado.web.validation import SESSION_HEADER


class SessionHandler(BaseHandler):
    """`/mcp/session`: POST creates a session, GET shows the one in the header, DELETE ends it."""

    allowed_methods = ("GET", "POST", "DELETE")

    def needs_session(self) -> bool:
        """Return whether this request needs a session; the POST that creates one does not."""
        if self.request.method == "POST":
            self.check_version()
            return False
        return super().needs_session()

    async def post(self) -> None:
        """Create a session that is initialized at once."""
        raw = self.body()
        value: Any = None
        if raw:
            self.check_content_type()
            value = decode(raw)
            if not is_object(value):
                raise SessionError(
                    ErrorCode.INVALID_REQUEST,
                    "The body must be empty, or an object with protocolVersion, capabilities and clientInfo",
                )
        session_id, session = await self.services.kernel.create_session(value, self.describe_client())
        self.set_header(SESSION_HEADER, session_id)
        self.set_header("Location", f"{self.services.settings.server.path}/session")
        self.write_json(session_to_json(session), 201)

    def get(self) -> None:
        """Show the session."""
        self.write_json(session_to_json(self.session))

    async def delete(self) -> None:
        """End the session."""
        await self.services.kernel.terminate(self.session)
        self.write_empty(204)


def session_to_json(session: Session) -> dict[str, Any]:
    """Return the part of a session that its client may see: never its id, its whole key, its state or its journal."""
    client = session.client
    return {
        "key": short_key(session.key),
        "createdAt": _format_rfc3339(session.created_at),
        "lastSeenAt": _format_rfc3339(session.last_seen_at),
        "expiresAt": _format_rfc3339(session.expires_at),
        "client": {
            "remoteAddr": client.remote_addr,
            "userAgent": client.user_agent,
            "name": client.name,
            "version": client.version,
        },
        "principal": session.principal,
        "protocolVersion": session.protocol_version,
        "clientParams": session.client_params,
        "initialized": session.initialized,
        "revision": session.revision,
    }


def _format_rfc3339(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
