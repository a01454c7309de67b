"""How sessions begin: by the handshake of MCP, or without one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from mcp_types import InitializeRequestParams
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from mcp_tornado import jsonrpc
from mcp_tornado.hosting.context import session_context, sessionless_context
from mcp_tornado.hosting.request import InboundRequest
from mcp_tornado.jsonrpc import JSONObject, Request
from mcp_tornado.kernel.calls import CallContext, failure
from mcp_tornado.kernel.connections import ConnectionPool
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.sessions import ClientInfo, ErrorCode, Session, SessionError, SessionManager, session_key

HANDSHAKE_VERSIONS: Final = tuple(HANDSHAKE_PROTOCOL_VERSIONS)
STATELESS_VERSIONS: Final = tuple(MODERN_PROTOCOL_VERSIONS)
DEFAULT_VERSION: Final = LATEST_HANDSHAKE_VERSION
"""What a session made without a handshake speaks."""


@dataclass(frozen=True, slots=True)
class Initialized:
    """How an `initialize` went: the JSON-RPC response, and the id of the session where one was made."""

    response: JSONObject
    session_id: str | None


class Handshake:
    """Makes sessions.

    Args:
        manager: The sessions.
        pool: Where connections are kept.
        outgoing: Who sends the server's own requests.
        issue_sessions: Whether `initialize` makes a session.
    """

    def __init__(
        self, manager: SessionManager, pool: ConnectionPool, outgoing: OutgoingRequests, *, issue_sessions: bool
    ) -> None:
        self._manager = manager
        self._pool = pool
        self._outgoing = outgoing
        self._issue_sessions = issue_sessions

    async def initialize(
        self, request: Request, client: ClientInfo, inbound: InboundRequest, session: Session | None
    ) -> Initialized:
        """Negotiate (MCP 2025-11-25, basic/lifecycle), and make a session where there is none.

        On a live session it negotiates anew: the journal and `initialized` are cleared.

        Raises:
            SessionError: No session could be made.
        """
        new_id = self._manager.new_id() if session is None and self._issue_sessions else None
        connection = self._pool.connect()
        await connection.start()
        kept = False
        key = session.key if session is not None else None
        # What the server keeps by the session's key while it handles this is found by that key later.
        connection.connection.session_id = session_key(new_id) if new_id is not None else key
        context = CallContext(key or "", request, None, inbound.shown(key), self._outgoing)
        surrounding = (
            session_context(self._manager, session)
            if session is not None
            else sessionless_context(self._manager, inbound)
        )
        try:
            try:
                with surrounding as here:
                    value = await connection.on_request(context, request.method, request.params)
            except Exception as exception:
                return Initialized(failure(request.id, exception).message, None)
            response = jsonrpc.result(request.id, value)
            if not self._issue_sessions:
                return Initialized(response, None)
            version, params = connection.connection.protocol_version, dict(request.params or {})
            named = _named(client, params)
            if session is not None:
                stored = await self._renew(session, named, version, params)
            else:
                _, stored = await self._manager.create(
                    client=named,
                    protocol_version=version,
                    client_params=params,
                    session_id=new_id,
                    server_state=here.kept.get(connection.connection.session_id or ""),
                )
            connection.bind(stored)
            # What the server kept on the connection before was said in another session, so to speak.
            self._pool.drop(stored.key)
            self._pool.add(stored.key, connection)
            kept = True
            return Initialized(response, new_id)
        finally:
            context.close()
            if not kept:
                await connection.close()

    async def _renew(self, session: Session, client: ClientInfo, version: str, params: dict[str, Any]) -> Session:
        """Make a live session anew."""
        changes: dict[str, Any] = {
            "client": client.to_dict(),
            "protocol_version": version,
            "client_params": params,
            "initialized": False,
            "journal": [],
        }
        return await self._manager.update(session.key, lambda _: changes)

    async def create_session(self, value: JSONObject | None, client: ClientInfo) -> tuple[str, Session]:
        """Make a session without a handshake, ready for use.

        Args:
            value: `{protocolVersion, capabilities, clientInfo}`, each of them optional; `None` for none.
            client: Who asks.

        Raises:
            SessionError: `INVALID_REQUEST`, saying what is wrong with the value; or no session could be made.
        """
        given = dict(value or {})
        params: dict[str, Any] = {
            "protocolVersion": given.pop("protocolVersion", DEFAULT_VERSION),
            "capabilities": given.pop("capabilities", {}),
            "clientInfo": given.pop("clientInfo", {"name": "unknown", "version": ""}),
        }
        if given:
            raise SessionError(
                ErrorCode.INVALID_REQUEST,
                f"Unknown members: {', '.join(sorted(given))}; allowed are protocolVersion, capabilities, clientInfo",
            )
        if params["protocolVersion"] not in HANDSHAKE_VERSIONS:
            raise SessionError(
                ErrorCode.INVALID_REQUEST,
                f"protocolVersion must be one of {', '.join(HANDSHAKE_VERSIONS)}: later revisions have no sessions",
            )
        try:
            InitializeRequestParams.model_validate(params, by_name=False)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SessionError(ErrorCode.INVALID_REQUEST, f"{where}: {first['msg']}") from error
        return await self._manager.create(
            client=_named(client, value or {}),
            protocol_version=params["protocolVersion"],
            client_params=params,
            initialized=True,
        )


def _named(client: ClientInfo, params: JSONObject) -> ClientInfo:
    """Return the client with the name and version that its `clientInfo` gives, where it gives one."""
    info = params.get("clientInfo")
    name, version = (info.get("name"), info.get("version")) if jsonrpc.is_object(info) else (None, None)
    return replace(
        client,
        name=name if isinstance(name, str) else None,
        version=version if isinstance(version, str) else None,
    )
