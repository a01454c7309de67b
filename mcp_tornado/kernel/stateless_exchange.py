"""One request without a session: the context that its handler sees, and the exchange that answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp.shared.message import MessageMetadata, ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from starlette.requests import Request as StarletteRequest

from mcp_tornado import jsonrpc
from mcp_tornado.hosting.request import LazyHeaders
from mcp_tornado.jsonrpc import JSONObject, Request, RequestId
from mcp_tornado.kernel.calls import TRANSPORT_KIND, failure
from mcp_tornado.kernel.containment import contain
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.streams.frames import Frame, FrameQueue, FrameReader
from mcp_tornado.streams.responses import Answer, Outcome, encode_response
from mcp_tornado.streams.timers import SharedTimer

Emit = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends a notification to the client."""
Handle = Callable[[Emit | None], Awaitable[dict[str, Any]]]
"""Runs a request and returns its result. The argument sends its notifications; with `None` they are dropped."""


class StatelessContext:
    """The context that the SDK's dispatcher gets for a request without a session: the SDK's `DispatchContext`.

    Server requests are not possible. Notifications go to `emit`; if it is `None`, they are dropped.
    """

    can_send_request = False

    def __init__(
        self,
        request: Request | None,
        http_request: StarletteRequest,
        emit: Emit | None,
    ) -> None:
        self._request = request
        self._emit = emit
        self.transport = TransportContext(
            kind=TRANSPORT_KIND, can_send_request=False, headers=LazyHeaders(http_request)
        )
        self.message_metadata: MessageMetadata = ServerMessageMetadata(
            request_context=http_request, can_send_request=False
        )
        self.cancel_requested = anyio.Event()

    @property
    def request_id(self) -> RequestId | None:
        """The id of the request."""
        return self._request.id if self._request is not None else None

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Raise `NoBackChannelError`: the client cannot reply to a request."""
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification on the request's stream; drop it if the request has none."""
        if self._emit is not None:
            await self._emit(jsonrpc.notification(method, params))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress if the client asked for it (MCP, basic/utilities/progress)."""
        token = jsonrpc.progress_token(self._request.params) if self._request is not None else None
        if token is not None:
            await self.notify("notifications/progress", jsonrpc.progress_params(token, progress, total, message))


class StatelessExchange:
    """One request without a session, as the web layer answers it. A disconnect of the client cancels it.

    Args:
        request: The request.
        handle: Runs the request.
        stream_timer: Calls back when the handler has emitted nothing for `events.stream_after_seconds`: the exchange
            then becomes a stream. `None` if it never becomes one for that reason.
        always_streams: Whether the answer is sent as a stream even if it is available at once.
        metrics: Counts tool calls.
    """

    def __init__(
        self,
        request: Request,
        handle: Handle,
        *,
        stream_timer: SharedTimer | None,
        always_streams: bool,
        metrics: Metrics,
    ) -> None:
        self.request = request
        self._handle = handle
        self._stream_timer = stream_timer
        self._always_streams = always_streams
        self._metrics = metrics
        self._queue = FrameQueue()
        self._has_emitted = False
        self._answer: Answer | None = None
        self._decided = asyncio.Event()
        """Set when it is known whether the answer is JSON or a stream."""
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Run the handler until it has answered, or until the client has disconnected."""
        may_stream = self._stream_timer is not None or self._always_streams
        outcome = "cancelled"
        with self._scope:
            try:
                handler = self._handle(self._emit if may_stream else None)
                value = await contain(handler, lambda: self._scope.cancel_called)
                outcome = "error" if value.get("isError") is True else "ok"
                answer = jsonrpc.result(self.request.id, value)
            except Exception as exception:
                outcome = "error"
                answer = failure(self.request, exception).message
            self._settle(Outcome(answer, http_status(answer)))
        if self.request.method == "tools/call":
            self._metrics.count_tool_call((self.request.params or {}).get("name"), outcome)

    async def _emit(self, message: dict[str, Any]) -> None:
        self._has_emitted = True
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
        """Return the JSON answer, or `None` if the frames of `reader` must be streamed."""
        if self._always_streams:
            return None
        timeout = self._stream_timer.call_later(self._decided.set) if self._stream_timer is not None else None
        try:
            await self._decided.wait()
        finally:
            if timeout is not None:
                timeout.cancel()
        if self._queue.is_closed:  # the client has disconnected
            return Answer(200, b"")
        return None if self._has_emitted else self._answer

    def reader(self) -> FrameReader:
        """Return the reader of the stream. Call it only after `answer` has returned `None`."""
        return self._queue

    def abort(self, code: ErrorCode) -> None:
        """Cancel the request because the server ends; answer it with this error at once."""
        # Not with the code of `lost`: MCP 2026-07-28, basic, says that -32000 must no longer be used.
        self._settle(failure(self.request, SessionError(code)))
        self._scope.cancel()

    def disconnect(self) -> None:
        """Cancel the request because the client has disconnected (MCP 2026-07-28, basic/transports)."""
        self._queue.close(discard_pending=True)
        self._decided.set()
        self._scope.cancel()


def http_status(message: JSONObject) -> int:
    """Return the HTTP status that the SDK's table gives for the error of a response; 200 if it is no error."""
    error = message.get("error")
    return ERROR_CODE_HTTP_STATUS.get(error["code"], 200) if error is not None else 200
