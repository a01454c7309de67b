"""Creating sessions: by the handshake of MCP, or without one."""

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
from mcp_tornado.kernel.containment import contain
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.sessions import ClientInfo, ErrorCode, Session, SessionError, SessionManager, session_key

HANDSHAKE_VERSIONS: Final = tuple(HANDSHAKE_PROTOCOL_VERSIONS)
STATELESS_VERSIONS: Final = tuple(MODERN_PROTOCOL_VERSIONS)
DEFAULT_VERSION: Final = LATEST_HANDSHAKE_VERSION
"""The revision of MCP of a session that is created without a handshake, unless the request names one."""


@dataclass(frozen=True, slots=True)
class HandshakeResult:
    """The result of `initialize`: the JSON-RPC response, and the new session's id; `None` if none was created."""

    response: JSONObject
    session_id: str | None


class Handshake:
    """Creates sessions.

    Args:
        manager: The sessions.
        pool: Keeps the SDK's connections.
        outgoing: Sends server requests.
        issue_sessions: Whether `initialize` creates a session.
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
    ) -> HandshakeResult:
        """Negotiate (MCP 2025-11-25, basic/lifecycle), and create a session if there is none.

        On a live session it negotiates again and clears the journal and `initialized`.

        Raises:
            SessionError: No session could be created.
        """
        new_id = self._manager.new_id() if session is None and self._issue_sessions else None
        connection = self._pool.connect()
        await connection.start()
        is_pooled = False
        key = session.key if session is not None else None
        # Set it before the handler runs: what the server stores under this key must be found under it later.
        connection.connection.session_id = session_key(new_id) if new_id is not None else key
        context = CallContext(key or "", request, None, inbound.to_starlette(key), self._outgoing)
        request_context = (
            session_context(self._manager, session)
            if session is not None
            else sessionless_context(self._manager, inbound)
        )
        try:
            try:
                with request_context as current:
                    handler = connection.on_request(context, request.method, request.params)
                    value = await contain(handler, lambda: False)
            except Exception as exception:
                return HandshakeResult(failure(request, exception, key).message, None)
            response = jsonrpc.result(request.id, value)
            if not self._issue_sessions:
                return HandshakeResult(response, None)
            version, params = connection.connection.protocol_version, dict(request.params or {})
            client = _with_client_info(client, params)
            if session is not None:
                stored = await self._renegotiate(session, client, version, params)
            else:
                _, stored = await self._manager.create(
                    client=client,
                    protocol_version=version,
                    client_params=params,
                    session_id=new_id,
                    server_state=current.transient_state.get(connection.connection.session_id or ""),
                )
            connection.bind(stored)
            # The server's objects on the old connection belong to the handshake before this one.
            self._pool.drop(stored.key)
            self._pool.add(stored.key, connection)
            is_pooled = True
            return HandshakeResult(response, new_id)
        finally:
            context.close()
            if not is_pooled:
                await connection.close()

    async def _renegotiate(self, session: Session, client: ClientInfo, version: str, params: dict[str, Any]) -> Session:
        changes: dict[str, Any] = {
            "client": client.to_dict(),
            "protocol_version": version,
            "client_params": params,
            "initialized": False,
            "journal": [],
        }
        return await self._manager.update(session.key, lambda _: changes)

    async def create_session(self, value: JSONObject | None, client: ClientInfo) -> tuple[str, Session]:
        """Create a session without a handshake. It is initialized at once.

        Args:
            value: `{protocolVersion, capabilities, clientInfo}`, each optional; `None` uses the defaults.
            client: The client that sent the request.

        Raises:
            SessionError: `INVALID_REQUEST`: the message says what is wrong with the value. Or no session could be
                created.
        """
        members = dict(value or {})
        params: dict[str, Any] = {
            "protocolVersion": members.pop("protocolVersion", DEFAULT_VERSION),
            "capabilities": members.pop("capabilities", {}),
            "clientInfo": members.pop("clientInfo", {"name": "unknown", "version": ""}),
        }
        if members:
            raise SessionError(
                ErrorCode.INVALID_REQUEST,
                f"Unknown members: {', '.join(sorted(members))}; allowed are protocolVersion, capabilities, clientInfo",
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
            client=_with_client_info(client, value or {}),
            protocol_version=params["protocolVersion"],
            client_params=params,
            initialized=True,
        )


def _with_client_info(client: ClientInfo, params: JSONObject) -> ClientInfo:
    """Return the client with the name and the version from `clientInfo` in `params`; a missing one is `None`."""
    info = params.get("clientInfo")
    name, version = (info.get("name"), info.get("version")) if jsonrpc.is_object(info) else (None, None)
    return replace(
        client,
        name=name if isinstance(name, str) else None,
        version=version if isinstance(version, str) else None,
    )
