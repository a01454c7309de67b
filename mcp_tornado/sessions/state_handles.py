"""State handles: records of state that a client names by a handle instead of a session id.

The record of a handle is stored like a session. `Session.is_handle` tells the two apart.
"""

from __future__ import annotations

from mcp_tornado.sessions.errors import ErrorCode, SessionError
from mcp_tornado.sessions.manager import SessionManager
from mcp_tornado.sessions.model import HANDLE_VERSION, ClientInfo, Session


async def create_handle(
    manager: SessionManager, *, client: ClientInfo, principal: str | None = None
) -> tuple[str, Session]:
    """Create a state handle. Its record behaves like a session, but no client can use it as one.

    Returns:
        The handle, which is stored nowhere, and its record.

    Raises:
        SessionError: See `SessionManager.create`.
    """
    return await manager.create(
        client=client, protocol_version=HANDLE_VERSION, client_params={}, principal=principal, initialized=True
    )


async def open_handle(manager: SessionManager, handle: str, *, principal: str | None = None) -> Session:
    """Return the live record of a state handle, and keep it alive as `SessionManager.refresh` does.

    Raises:
        SessionError: `SESSION_ID_MALFORMED`, `SESSION_NOT_FOUND` (also if the record belongs to another principal, or
            if the handle is the id of a session), `SESSION_EXPIRED`, `STORE_UNAVAILABLE`.
    """
    session = await manager.look_up(handle, principal=principal, is_handle=True)
    if not await manager.refresh(session):
        raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended")
    return session
