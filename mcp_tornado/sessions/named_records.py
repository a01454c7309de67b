"""Named records: state that a server stores under a name of its own choice.

A named record lives like the record of a state handle, and counts as one session. No client can ask for it.
"""

from __future__ import annotations

from typing import Any, Final

from mcp_tornado.sessions.errors import DuplicateSession, ErrorCode, SessionError
from mcp_tornado.sessions.ids import named_key
from mcp_tornado.sessions.manager import SessionManager
from mcp_tornado.sessions.model import HANDLE_VERSION, ClientInfo, Session

_PUT_ATTEMPTS: Final = 3


async def find_named(manager: SessionManager, name: str) -> Session | None:
    """Return the live record with a name, or `None`, and keep it alive as `SessionManager.refresh` does.

    The principal is not checked. If a record belongs to one principal, the principal must be part of its name.

    Raises:
        SessionError: `STORE_UNAVAILABLE`.
    """
    session = await manager.find(named_key(name))
    return session if session is not None and await manager.refresh(session) else None


async def put_named(
    manager: SessionManager, name: str, state: dict[str, Any], *, client: ClientInfo, principal: str | None = None
) -> None:
    """Store a state under a name; a live record with this name gets the new state.

    Raises:
        StateTooLarge: The state is larger than the rules allow.
        TypeError, ValueError: The state cannot be written as JSON.
        SessionError: `SESSION_LIMIT_REACHED`, `SESSION_CONFLICT`, `STORE_UNAVAILABLE`.
    """
    key, checked = named_key(name), manager.checked_state(state)
    for _ in range(_PUT_ATTEMPTS):
        try:
            await _replace_state(manager, key, checked)
            return
        except SessionError as error:
            if error.code is not ErrorCode.SESSION_NOT_FOUND:
                raise
        await manager.check_caps(principal)
        try:
            await manager.insert(
                key,
                client=client,
                principal=principal,
                protocol_version=HANDLE_VERSION,
                initialized=True,
                state=checked,
            )
            return
        except DuplicateSession:
            # Either another call has just inserted the record, or it has expired and was not swept yet.
            if await manager.find(key) is None:
                await manager.discard(key)
    raise SessionError(ErrorCode.SESSION_CONFLICT)


async def update_named(manager: SessionManager, name: str, state: dict[str, Any]) -> None:
    """Replace the state of the live record with a name.

    Raises:
        StateTooLarge: The state is larger than the rules allow.
        TypeError, ValueError: The state cannot be written as JSON.
        SessionError: `SESSION_NOT_FOUND` if there is no live record; see also `SessionManager.update`.
    """
    await _replace_state(manager, named_key(name), manager.checked_state(state))


async def delete_named(manager: SessionManager, name: str) -> bool:
    """Remove the record with a name, and return whether it existed.

    Raises:
        SessionError: `STORE_UNAVAILABLE`.
    """
    return await manager.terminate(named_key(name))


async def _replace_state(manager: SessionManager, key: str, checked: dict[str, Any]) -> None:
    await manager.update(key, lambda _: {"state": checked})
