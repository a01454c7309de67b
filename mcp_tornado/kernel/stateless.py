"""Requests that stand alone: the stateless era (MCP 2026-07-28), and handshake-era requests without a session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping
from typing import Any, Final

import anyio
from mcp.server.connection import Connection
from mcp.server.lowlevel.server import Server
from mcp.server.runner import serve_one
from mcp.server.subscriptions import ListenHandler
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
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
from mcp.shared.message import MessageMetadata, ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    HEADER_MISMATCH,
    PROTOCOL_VERSION_META_KEY,
)
from starlette.requests import Request as StarletteRequest

from mcp_tornado import jsonrpc
from mcp_tornado.hosting.request import InboundRequest, LazyHeaders
from mcp_tornado.jsonrpc import JSONObject, Request, RequestId
from mcp_tornado.kernel.calls import TRANSPORT_KIND, failure
from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.sessions.encoding import encode
from mcp_tornado.streams.frames import Frame, FrameQueue, FrameReader
from mcp_tornado.streams.responses import Answer, Outcome, encode_response
from mcp_tornado.streams.timers import SharedTimer

_log = get_logger(__name__)

Emit = Callable[[dict[str, Any]], Awaitable[None]]
"""Takes a notification for the client."""
Handle = Callable[[Emit | None], Awaitable[dict[str, Any]]]
"""Runs a request to its result, given what takes the notifications: `None` where they are dropped."""

LISTEN: Final = "subscriptions/listen"
"""The one method whose answer is a stream by nature (MCP 2026-07-28, basic/utilities/subscriptions)."""

_LIST_PAGES: Final = 100
"""How many pages of `tools/list` are read for a schema at the most."""
_PARAM_PREFIX: Final = MCP_PARAM_HEADER_PREFIX.lower()
_ROUTING_HEADERS: Final = frozenset({MCP_PROTOCOL_VERSION_HEADER, MCP_METHOD_HEADER, MCP_NAME_HEADER})


class StatelessContext:
    """What the SDK's kernel is given for a request that stands alone: the SDK's `DispatchContext`.

    There is no way back: the server cannot send requests. Notifications go to `emit`.
    """

    can_send_request = False

    def __init__(
        self,
        request: Request | None,
        shown: StarletteRequest,
        emit: Emit | None,
    ) -> None:
        self._request = request
        self._emit = emit
        self.transport = TransportContext(kind=TRANSPORT_KIND, can_send_request=False, headers=LazyHeaders(shown))
        self.message_metadata: MessageMetadata = ServerMessageMetadata(request_context=shown, can_send_request=False)
        self.cancel_requested = anyio.Event()

    @property
    def request_id(self) -> RequestId | None:
        """The id of the request."""
        return self._request.id if self._request is not None else None

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Raise `NoBackChannelError`: nobody could answer."""
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification on the request's stream, if it can have one."""
        if self._emit is not None:
            await self._emit(jsonrpc.notification(method, params))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress, if the client asked for it."""
        token = jsonrpc.progress_token(self._request.params) if self._request is not None else None
        if token is not None:
            await self.notify("notifications/progress", jsonrpc.progress_params(token, progress, total, message))


class StatelessExchange:
    """One request that stands alone, as the web layer answers it. A disconnect cancels it.

    Args:
        request: The request.
        handle: Runs it, given what takes the notifications (`None` where they are dropped).
        patience: After which a stream is opened though nothing was emitted; `None`: it never is.
        always_streams: Whether even an answer at hand goes out as a stream.
        metrics: Counts tool calls.
    """

    def __init__(
        self,
        request: Request,
        handle: Handle,
        *,
        patience: SharedTimer | None,
        always_streams: bool,
        metrics: Metrics,
    ) -> None:
        self.request = request
        self._handle = handle
        self._patience = patience
        self._always_streams = always_streams
        self._metrics = metrics
        self._queue = FrameQueue()
        self._emitted = False
        self._answer: Answer | None = None
        self._decided = asyncio.Event()
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Run the handler to its answer, or until the client has hung up."""
        may_stream = self._patience is not None or self._always_streams
        outcome = "cancelled"
        with self._scope:
            try:
                value = await self._handle(self._emit if may_stream else None)
                outcome = "error" if value.get("isError") is True else "ok"
                answer = jsonrpc.result(self.request.id, value)
            except Exception as exception:
                outcome = "error"
                answer = failure(self.request.id, exception).message
            self._settle(Outcome(answer, http_status(answer)))
        if self.request.method == "tools/call":
            self._metrics.count_tool_call((self.request.params or {}).get("name"), outcome)

    async def _emit(self, message: dict[str, Any]) -> None:
        self._emitted = True
        self._decided.set()
        self._queue.put(Frame(None, message))
        await self._queue.wait_for_room()

    def _settle(self, outcome: Outcome) -> None:
        if self._answer is None:
            message, body = encode_response(outcome.message)
            self._answer = Answer(outcome.status, body, outcome.retry_after)
            self._queue.put(Frame(None, message), last=True)
            self._decided.set()

    async def answer(self) -> Answer | None:
        """Return the JSON answer, or `None` where `frames` are to be streamed."""
        if self._always_streams:
            return None
        wait = self._patience.call_later(self._decided.set) if self._patience is not None else None
        try:
            await self._decided.wait()
        finally:
            if wait is not None:
                wait.cancel()
        if self._queue.is_closed:  # the client has hung up
            return Answer(200, b"")
        return None if self._emitted else self._answer

    def reader(self) -> FrameReader:
        """Return who reads the stream, once `answer` has said that there is one."""
        return self._queue

    def abort(self, code: ErrorCode) -> None:
        """Cancel because the server ends: the answer says so, at once."""
        # Not as `lost` says it: MCP 2026-07-28, basic, wants its code no longer used.
        self._settle(failure(self.request.id, SessionError(code)))
        self._scope.cancel()

    def disconnect(self) -> None:
        """Cancel the request: the client has hung up (MCP 2026-07-28, basic/transports)."""
        self._queue.close(discard_pending=True)
        self._decided.set()
        self._scope.cancel()


def http_status(message: JSONObject) -> int:
    """Return the HTTP status that the SDK's table gives a response's error, 200 where there is none."""
    error = message.get("error")
    return ERROR_CODE_HTTP_STATUS.get(error["code"], 200) if error is not None else 200


def envelope_version(value: Any) -> Any:
    """Return the revision that a message's envelope names (MCP 2026-07-28, basic); `None` where it has no envelope."""
    params = value.get("params") if jsonrpc.is_object(value) else None
    meta = params.get("_meta") if jsonrpc.is_object(params) else None
    return meta.get(PROTOCOL_VERSION_META_KEY) if jsonrpc.is_object(meta) else None


def _reject(request_id: RequestId | None, rejection: InboundLadderRejection) -> Answer:
    error: dict[str, Any] = {"code": rejection.code, "message": rejection.message}
    if rejection.data is not None:
        error["data"] = rejection.data
    refused = jsonrpc.error(request_id, error)
    return Answer(http_status(refused), encode(refused))


def _unsafe_header(inbound: InboundRequest, names: Container[str]) -> InboundLadderRejection | None:
    """Refuse what HTTP lets through: a value that is to be compared with the body but is not plain ASCII.

    Whoever stands in between may read other characters in it than we do.
    """
    for name, value in inbound.headers:
        if name in names and not (value.isascii() and value.replace("\t", " ").isprintable()):
            return InboundLadderRejection(HEADER_MISMATCH, f"{name} header contains invalid characters")
    return None


class StatelessEra:
    """Serves revision 2026-07-28: every request brings its own envelope, and no session is made or needed."""

    def __init__(self, server: Server[Any], lifespan_state: Any) -> None:
        self._server = server
        self._lifespan_state = lifespan_state

    def end_subscriptions(self) -> bool:
        """End the answers to `subscriptions/listen` gracefully; say whether the server's handler can do that."""
        entry = self._server.get_request_handler(LISTEN)
        if entry is None or not isinstance(entry.handler, ListenHandler):
            return False
        entry.handler.close()
        return True

    def check_notification(self, inbound: InboundRequest) -> Answer | None:
        """Return why a client's notification is refused, or `None`: it is accepted, and dropped.

        The revision has no notifications from the client over HTTP.
        """
        version = dict(inbound.headers).get(MCP_PROTOCOL_VERSION_HEADER, "")
        rejection = unsupported_protocol_version_rejection(version)
        return _reject(None, rejection) if rejection is not None else None

    async def classify(
        self, body: JSONObject, request: Request, inbound: InboundRequest
    ) -> InboundModernRoute | Answer:
        """Run the SDK's classification: return the route of a request, or the answer that refuses it."""
        duplicated = find_duplicated_routing_header(inbound.headers)
        if duplicated is not None:
            rejection = InboundLadderRejection(HEADER_MISMATCH, f"{duplicated} header appears more than once")
            return _reject(request.id, rejection)
        unsafe = _unsafe_header(inbound, _ROUTING_HEADERS)
        if unsafe is not None:
            return _reject(request.id, unsafe)
        verdict = classify_inbound_request(body, headers=dict(inbound.headers))
        if isinstance(verdict, InboundLadderRejection):
            return _reject(request.id, verdict)
        refused = await self._check_param_headers(request, inbound, verdict)
        return _reject(request.id, refused) if refused is not None else verdict

    async def run(
        self,
        request: Request,
        route: InboundModernRoute,
        shown: StarletteRequest,
        emit: Emit | None,
    ) -> dict[str, Any]:
        """Run a classified request and return its result; raises what the handler raises."""
        connection = Connection.from_envelope(route.protocol_version, route.client_info, route.client_capabilities)
        return await self._serve(request, connection, shown, emit)

    async def run_without_session(
        self,
        request: Request,
        protocol_version: str,
        shown: StarletteRequest,
        emit: Emit | None,
    ) -> dict[str, Any]:
        """Run a handshake-era request on a connection of its own; raises what the handler raises."""
        return await self._serve(request, Connection.from_envelope(protocol_version, None, None), shown, emit)

    async def _serve(
        self, request: Request, connection: Connection, shown: StarletteRequest, emit: Emit | None
    ) -> dict[str, Any]:
        return await serve_one(
            self._server,
            StatelessContext(request, shown, emit),
            request.method,
            request.params,
            connection=connection,
            lifespan_state=self._lifespan_state,
        )

    async def _check_param_headers(
        self, request: Request, inbound: InboundRequest, route: InboundModernRoute
    ) -> InboundLadderRejection | None:
        """Compare the `Mcp-Param-*` headers of a tool call with its arguments (SEP-2243).

        A schema that cannot be found out is no reason to refuse a call that would work.
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
            schema = await self._input_schema(name, request, inbound, route)
        except Exception:
            _log.exception("param_headers.unchecked", hint="the tool's schema could not be read")
            return None
        if schema is None:
            return None
        recognized = {f"{_PARAM_PREFIX}{token.lower()}" for token in x_mcp_header_map(schema).values()}
        unsafe = _unsafe_header(inbound, recognized)
        return unsafe or validate_mcp_param_headers(schema, arguments or {}, inbound.shown(None).headers)

    async def _input_schema(
        self, name: str, request: Request, inbound: InboundRequest, route: InboundModernRoute
    ) -> Any:
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
        shown = inbound.shown(None)
        params: dict[str, Any] = {"_meta": meta}
        for _ in range(_LIST_PAGES):
            listing = Request(request.id, "tools/list", params)
            page = await self.run(listing, route, shown, None)
            for tool in page.get("tools", []):
                if tool.get("name") == name:
                    return tool.get("inputSchema")
            cursor = page.get("nextCursor")
            if not isinstance(cursor, str):
                return None
            params = {"_meta": meta, "cursor": cursor}
        return None
