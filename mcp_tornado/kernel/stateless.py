"""Requests without a session: the stateless era (MCP 2026-07-28), and handshake-era requests of clients without one."""

from __future__ import annotations

from collections.abc import Container
from functools import partial
from typing import Any, Final

from mcp.server.connection import Connection
from mcp.server.lowlevel.server import Server
from mcp.server.runner import serve_one
from mcp.server.subscriptions import ListenHandler
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PARAM_HEADER_PREFIX,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    InboundModernRoute,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
    x_mcp_header_map,
)
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    HEADER_MISMATCH,
    PROTOCOL_VERSION_META_KEY,
)
from starlette.requests import Request as StarletteRequest

from mcp_tornado import jsonrpc
from mcp_tornado.hosting.context import sessionless_context
from mcp_tornado.hosting.request import InboundRequest
from mcp_tornado.jsonrpc import JSONObject, Notification, Reply, Request, RequestId
from mcp_tornado.kernel.admission import Admission
from mcp_tornado.kernel.containment import contain
from mcp_tornado.kernel.stateless_exchange import Emit, Handle, StatelessContext, StatelessExchange, http_status
from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import ErrorCode, SessionError, SessionManager
from mcp_tornado.sessions.encoding import encode
from mcp_tornado.streams.responses import Answer, AnswerForm
from mcp_tornado.streams.tasks import BackgroundTasks
from mcp_tornado.streams.timers import SharedTimer

_log = get_logger(__name__)

LISTEN: Final = "subscriptions/listen"
"""The one method whose answer is always a stream (MCP 2026-07-28, basic/utilities/subscriptions)."""

_UNNEGOTIATED_VERSION: Final = "2025-03-26"
"""The revision of a request without `MCP-Protocol-Version` and without a session (MCP 2025-06-18, basic/transports)."""
_MAX_LIST_PAGES: Final = 100
"""The most pages of `tools/list` that are read to find a tool's schema."""
_PARAM_PREFIX: Final = MCP_PARAM_HEADER_PREFIX.lower()
_ROUTING_HEADERS: Final = frozenset({MCP_PROTOCOL_VERSION_HEADER, MCP_METHOD_HEADER, MCP_NAME_HEADER})


class StatelessRequests:
    """Handles requests that carry everything the server needs to know. No session is created or needed.

    Args:
        server: The SDK server.
        lifespan_state: What the server's lifespan has yielded.
        manager: The sessions; state handles are stored there.
        metrics: Counts tool calls.
        admission: Refuses new requests during a drain.
        tasks: Keeps the tasks that handlers run in.
        stream_timer: Calls back when a request has sent nothing for `events.stream_after_seconds`; `None` if a request
            never becomes a stream for that reason.
    """

    def __init__(
        self,
        server: Server[Any],
        lifespan_state: Any,
        manager: SessionManager,
        *,
        metrics: Metrics,
        admission: Admission,
        tasks: BackgroundTasks,
        stream_timer: SharedTimer | None,
    ) -> None:
        self._server = server
        self._lifespan_state = lifespan_state
        self._manager = manager
        self._metrics = metrics
        self._admission = admission
        self._tasks = tasks
        self._stream_timer = stream_timer
        self._exchanges: set[StatelessExchange] = set()

    # ------------------------------------------------------------------ messages

    async def handle(self, body: Any, inbound: InboundRequest, form: AnswerForm) -> StatelessExchange | Answer | None:
        """Handle one message of the stateless era (MCP 2026-07-28, basic/transports).

        Returns:
            The exchange that answers a request; the answer that refuses the message; or `None` if the message is
            accepted and needs no answer.

        Raises:
            SessionError: `INVALID_REQUEST`, `NOT_ACCEPTABLE` or `SERVER_DRAINING`.
        """
        message = jsonrpc.parse(body)
        if isinstance(message, Notification):
            return _check_notification(inbound)
        if isinstance(message, Reply):
            raise SessionError(ErrorCode.INVALID_REQUEST, "In this revision of MCP a client sends no responses")
        self._admission.check()
        if message.method == LISTEN and form is AnswerForm.JSON:
            raise SessionError(ErrorCode.NOT_ACCEPTABLE, f"{LISTEN} is answered with text/event-stream")
        route = await self._classify(body, message, inbound)
        if isinstance(route, Answer):
            return route
        return self._start(
            message,
            inbound,
            partial(run_classified, self._server, self._lifespan_state, message, route, inbound.to_starlette(None)),
            AnswerForm.STREAM if message.method == LISTEN else form,
        )

    def handle_without_session(
        self, body: Any, protocol_version: str | None, inbound: InboundRequest, form: AnswerForm
    ) -> StatelessExchange | None:
        """Handle one handshake-era message of a client that has no session.

        Args:
            body: The message.
            protocol_version: The value of `MCP-Protocol-Version`; `None` if the client did not send it.
            inbound: The HTTP request.
            form: The form of the answer to a request.

        Returns:
            The exchange that answers a request. `None` for any other message: it is accepted and dropped.

        Raises:
            SessionError: `INVALID_REQUEST` or `SERVER_DRAINING`.
        """
        message = jsonrpc.parse(body)
        if not isinstance(message, Request):
            return None
        self._admission.check()
        version = protocol_version if protocol_version is not None else _UNNEGOTIATED_VERSION
        connection = Connection.from_envelope(version, None, None)
        http_request = inbound.to_starlette(None)
        return self._start(
            message,
            inbound,
            partial(_run, self._server, self._lifespan_state, message, connection, http_request),
            form,
        )

    def _start(self, request: Request, inbound: InboundRequest, handle: Handle, form: AnswerForm) -> StatelessExchange:
        exchange = StatelessExchange(
            request,
            handle,
            stream_timer=self._stream_timer if form is not AnswerForm.JSON else None,
            always_streams=form is AnswerForm.STREAM,
            metrics=self._metrics,
        )
        self._exchanges.add(exchange)
        with sessionless_context(self._manager, inbound):
            task = self._tasks.spawn(exchange.run())
        task.add_done_callback(lambda _: self._exchanges.discard(exchange))
        return exchange

    # ------------------------------------------------------------------ end

    def end_subscriptions(self) -> None:
        """End the streams of `subscriptions/listen`: gracefully if the server's handler supports that."""
        entry = self._server.get_request_handler(LISTEN)
        if entry is not None and isinstance(entry.handler, ListenHandler):
            entry.handler.close()
            return
        for exchange in list(self._exchanges):
            if exchange.request.method == LISTEN:
                exchange.abort(ErrorCode.SERVER_DRAINING)

    def abort_all(self, code: ErrorCode) -> None:
        """Cancel every request that still runs, and answer it with this error."""
        for exchange in list(self._exchanges):
            exchange.abort(code)

    # ------------------------------------------------------------------ classification

    async def _classify(
        self, body: JSONObject, request: Request, inbound: InboundRequest
    ) -> InboundModernRoute | Answer:
        """Classify a request with the SDK's rules; return its route, or the answer that refuses it."""
        duplicated = find_duplicated_routing_header(inbound.headers)
        if duplicated is not None:
            rejection = InboundLadderRejection(HEADER_MISMATCH, f"{duplicated} header appears more than once")
            return _reject(request.id, rejection)
        unsafe = _find_unsafe_header(inbound, _ROUTING_HEADERS)
        if unsafe is not None:
            return _reject(request.id, unsafe)
        verdict = classify_inbound_request(body, headers=dict(inbound.headers))
        if isinstance(verdict, InboundLadderRejection):
            return _reject(request.id, verdict)
        rejection = await self._check_param_headers(request, inbound, verdict)
        return _reject(request.id, rejection) if rejection is not None else verdict

    async def _check_param_headers(
        self, request: Request, inbound: InboundRequest, route: InboundModernRoute
    ) -> InboundLadderRejection | None:
        """Compare the `Mcp-Param-*` headers of a tool call with its arguments (SEP-2243).

        If the tool's schema cannot be read, the check is skipped: the call itself may still work.
        """
        params = request.params or {}
        name, arguments = params.get("name"), params.get("arguments")
        if request.method != "tools/call" or not isinstance(name, str):
            return None
        if arguments is not None and not jsonrpc.is_object(arguments):
            return None
        if not arguments and not any(header.startswith(_PARAM_PREFIX) for header, _ in inbound.headers):
            return None
        try:
            schema = await contain(self._input_schema(name, request, inbound, route), lambda: False)
        except Exception:
            _log.exception("param_headers.unchecked", hint="the tool's schema could not be read")
            return None
        if schema is None:
            return None
        mirrored = {f"{_PARAM_PREFIX}{token.lower()}" for token in x_mcp_header_map(schema).values()}
        unsafe = _find_unsafe_header(inbound, mirrored)
        return unsafe or validate_mcp_param_headers(schema, arguments or {}, inbound.to_starlette(None).headers)

    async def _input_schema(
        self, name: str, request: Request, inbound: InboundRequest, route: InboundModernRoute
    ) -> Any:
        """Return the input schema of a tool, from the server's hook or from its `tools/list`; `None` if unknown."""
        if self._server.get_tool_input_schema is not None:
            return self._server.get_tool_input_schema(name)
        if self._server.get_request_handler("tools/list") is None:
            return None
        meta: dict[str, Any] = {
            PROTOCOL_VERSION_META_KEY: route.protocol_version,
            CLIENT_CAPABILITIES_META_KEY: route.client_capabilities,
        }
        if route.client_info is not None:
            meta[CLIENT_INFO_META_KEY] = route.client_info
        http_request = inbound.to_starlette(None)
        params: dict[str, Any] = {"_meta": meta}
        for _ in range(_MAX_LIST_PAGES):
            listing = Request(request.id, "tools/list", params)
            page = await run_classified(self._server, self._lifespan_state, listing, route, http_request, None)
            for tool in page.get("tools", []):
                if tool.get("name") == name:
                    return tool.get("inputSchema")
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str):
                return None
            params = {"_meta": meta, "cursor": cursor}
        return None


async def run_classified(
    server: Server[Any],
    lifespan_state: Any,
    request: Request,
    route: InboundModernRoute,
    http_request: StarletteRequest,
    emit: Emit | None,
) -> dict[str, Any]:
    """Run a classified request of the stateless era and return its result; raises what the handler raises."""
    connection = Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)
    return await _run(server, lifespan_state, request, connection, http_request, emit)


async def _run(
    server: Server[Any],
    lifespan_state: Any,
    request: Request,
    connection: Connection,
    http_request: StarletteRequest,
    emit: Emit | None,
) -> dict[str, Any]:
    return await serve_one(
        server,
        StatelessContext(request, http_request, emit),
        request.method,
        request.params,
        connection=connection,
        lifespan_state=lifespan_state,
    )


def envelope_version(value: Any) -> Any:
    """Return the revision in a message's envelope (MCP 2026-07-28, basic); `None` if the message has no envelope."""
    params = value.get("params") if jsonrpc.is_object(value) else None
    meta = params.get("_meta") if jsonrpc.is_object(params) else None
    return meta.get(PROTOCOL_VERSION_META_KEY) if jsonrpc.is_object(meta) else None


def _check_notification(inbound: InboundRequest) -> Answer | None:
    """Return the answer that refuses a client's notification; `None` if it is accepted and dropped.

    This revision defines no notifications of the client over HTTP.
    """
    version = dict(inbound.headers).get(MCP_PROTOCOL_VERSION_HEADER, "")
    rejection = unsupported_protocol_version_rejection(version)
    return _reject(None, rejection) if rejection is not None else None


def _reject(request_id: RequestId | None, rejection: InboundLadderRejection) -> Answer:
    error: dict[str, Any] = {"code": rejection.code, "message": rejection.message}
    if rejection.data is not None:
        error["data"] = rejection.data
    message = jsonrpc.error(request_id, error)
    return Answer(http_status(message), encode(message))


def _find_unsafe_header(inbound: InboundRequest, names: Container[str]) -> InboundLadderRejection | None:
    """Return the rejection of a request if a header with one of these names is not printable ASCII, else `None`.

    These headers are compared with the body. HTTP allows other characters, but a proxy may decode them differently.
    """
    for name, value in inbound.headers:
        if name in names and not (value.isascii() and value.replace("\t", " ").isprintable()):
            return InboundLadderRejection(HEADER_MISMATCH, f"{name} header contains invalid characters")
    return None
