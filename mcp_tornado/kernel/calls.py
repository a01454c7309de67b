"""One running request of a session, and the context its handler sees."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import anyio
from mcp.shared.dispatcher import CallOptions, OnRequest
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp.shared.message import MessageMetadata, ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from pydantic import BaseModel
from starlette.requests import Request as StarletteRequest

from mcp_tornado import jsonrpc
from mcp_tornado.hosting.request import LazyHeaders
from mcp_tornado.jsonrpc import CALL_LOST, REQUEST_CANCELLED, Request, RequestId
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import ERRORS, ErrorCode, SessionError, short_key
from mcp_tornado.streams.responses import Outcome, ResponseStream

_log = get_logger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a task that the kernel waits for at its end."""

TRANSPORT_KIND: Final = "streamable-http"


def error_object(error: BaseModel) -> dict[str, Any]:
    """Return the SDK's `ErrorData` as JSON."""
    return error.model_dump(by_alias=True, mode="json", exclude_none=True)


def failure(request_id: RequestId, exception: Exception) -> Outcome:
    """Return how a request went whose handler raised.

    The SDK's own errors pass as they are; of anything else the client learns only that it happened.
    """
    known = handler_exception_to_error_data(exception)
    if known is not None:
        return Outcome(jsonrpc.error(request_id, error_object(known)))
    if isinstance(exception, SessionError):
        error = jsonrpc.error(request_id, exception.to_error())
        return Outcome(error, exception.status, exception.retry_after)
    _log.exception("handler.failed", error=type(exception).__name__)
    return Outcome(jsonrpc.error(request_id, SessionError(ErrorCode.INTERNAL_ERROR).to_error()))


def lost(request_id: RequestId, code: ErrorCode) -> Outcome:
    """Return how a request went whose result can no longer come."""
    spec = ERRORS[code]
    error = {"code": CALL_LOST, "message": spec.message, "data": {"code": code.value}}
    return Outcome(jsonrpc.error(request_id, error), spec.status, spec.retry_after)


class CallContext:
    """What the SDK's kernel is given for one message of a session: the SDK's `DispatchContext`.

    Args:
        session_key: The session's key.
        request: The message, or `None` for a notification.
        stream: Where the handler's messages go.
        shown: The HTTP request that tools may look at.
        outgoing: Who sends the server's own requests.
        close_stream: Closes the POST's connection for the client to come back; `None` where it could not.
        close_standalone: The same for the standalone stream.
    """

    def __init__(
        self,
        session_key: str,
        request: Request | None,
        stream: ResponseStream | None,
        shown: StarletteRequest | None,
        outgoing: OutgoingRequests,
        *,
        close_stream: Callable[[], Awaitable[None]] | None = None,
        close_standalone: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._session_key = session_key
        self._request = request
        self._stream = stream
        self._outgoing = outgoing
        self._open = True
        self._cancel_requested: anyio.Event | None = None
        may_send = stream is not None and stream.may_stream
        self.transport = TransportContext(
            kind=TRANSPORT_KIND,
            can_send_request=may_send,
            headers=LazyHeaders(shown) if shown is not None else None,
        )
        self.message_metadata: MessageMetadata = ServerMessageMetadata(
            request_context=shown,
            close_sse_stream=close_stream,
            close_standalone_sse_stream=close_standalone,
            can_send_request=may_send,
        )

    @property
    def request_id(self) -> RequestId | None:
        """The id of the request that is handled; `None` for a notification."""
        return self._request.id if self._request is not None else None

    @property
    def can_send_request(self) -> bool:
        """Whether a request of the server's can reach the client now."""
        return self._open and self.transport.can_send_request

    @property
    def cancel_requested(self) -> anyio.Event:
        """Set once the client has cancelled the request."""
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
        return self._cancel_requested

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request to the client on this call's stream and return the result of its reply.

        Raises:
            NoBackChannelError: There is no stream to send it on.
            MCPError: The client answered with an error, or not in time.
        """
        if self._stream is None or not self.can_send_request:
            raise NoBackChannelError(method)
        return await self._outgoing.send(self._session_key, self._stream.emit, method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification on this call's stream; one that cannot be sent is dropped."""
        if self._stream is None or not self._open:
            return
        try:
            await self._stream.emit(jsonrpc.notification(method, params))
        except SessionError:
            _log.warning("message.dropped", session=short_key(self._session_key), method=method)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress, if the client asked for it."""
        token = jsonrpc.progress_token(self._request.params) if self._request is not None else None
        if token is not None:
            params = jsonrpc.progress_params(token, progress, total, message)
            await self.notify("notifications/progress", params)

    def close(self) -> None:
        """Let nothing more out: the request has its answer."""
        self._open = False


class Call:
    """A running request of a session. It outlives the POST that brought it, and is answered exactly once.

    Args:
        request: The request.
        context: What its handler sees.
        stream: What takes the answer.
        metrics: Counts tool calls.
        spawn: Starts a task that the kernel waits for at its end.
    """

    def __init__(
        self, request: Request, context: CallContext, stream: ResponseStream, *, metrics: Metrics, spawn: Spawn
    ) -> None:
        self.request = request
        self.stream = stream
        self._context = context
        self._metrics = metrics
        self._spawn = spawn
        self._task: asyncio.Task[None] | None = None
        self._settled = False
        self._settling: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()

    def start(
        self, on_request: OnRequest, succeeded: Callable[[], Awaitable[None]] | None = None
    ) -> asyncio.Task[None]:
        """Run the handler in a task of its own, to its answer, and return that task.

        Args:
            on_request: The kernel's entry.
            succeeded: Awaited after a success, before the answer.
        """
        self._task = asyncio.create_task(self._run(on_request, succeeded))
        return self._task

    async def _run(self, on_request: OnRequest, succeeded: Callable[[], Awaitable[None]] | None) -> None:
        answer, outcome = None, "cancelled"
        try:
            answer, outcome = await self._outcome(on_request, succeeded)
        except asyncio.CancelledError:
            if self._settling is None:  # not one call but the whole kernel is ended
                raise
        if self.request.method == "tools/call":
            self._metrics.count_tool_call((self.request.params or {}).get("name"), outcome)
        if answer is not None:
            await self._settle(answer)

    async def _outcome(
        self, on_request: OnRequest, succeeded: Callable[[], Awaitable[None]] | None
    ) -> tuple[Outcome, str]:
        request = self.request
        try:
            value = await on_request(self._context, request.method, request.params)
            if succeeded is not None:
                await succeeded()
        except Exception as exception:
            return failure(request.id, exception), "error"
        return Outcome(jsonrpc.result(request.id, value)), "error" if value.get("isError") is True else "ok"

    def refuse(self, error: SessionError) -> asyncio.Task[None]:
        """Answer with an error instead of running the handler."""
        self._task = asyncio.create_task(self._settle(failure(self.request.id, error)))
        return self._task

    def cancel(self) -> bool:
        """Cancel because the client asked for it: the answer is -32800, at once; say whether there was none yet."""
        if self._settled:
            return False
        self._context.cancel_requested.set()
        error = {"code": REQUEST_CANCELLED, "message": "Request cancelled"}
        self._end(Outcome(jsonrpc.error(self.request.id, error)))
        return True

    def abort(self, code: ErrorCode) -> None:
        """Cancel because the session ends, or the server does: the answer says so, at once."""
        self._end(lost(self.request.id, code))

    def _end(self, outcome: Outcome) -> None:
        if self._settled:
            return  # what is on its way is not interrupted
        # The answer does not wait for the handler: a plain function in a thread cannot be interrupted.
        if self._settling is None:
            self._settling = self._spawn(self._settle(outcome))
        if self._task is not None:
            self._task.cancel()

    async def _settle(self, outcome: Outcome) -> None:
        if self._settled:
            return
        self._settled = True
        self._context.close()
        try:
            await self.stream.add_answer(outcome)
        finally:
            self._answered.set()

    @property
    def is_being_answered(self) -> bool:
        """Whether its answer is on its way."""
        return (self._settled or self._settling is not None) and not self._answered.is_set()

    async def settled(self) -> None:
        """Wait until an answer that was begun to be given is given."""
        if self._settled or self._settling is not None:
            await self._answered.wait()
