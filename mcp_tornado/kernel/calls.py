"""One running request of a session, and the context that its handler sees."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
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
from mcp_tornado.kernel.containment import HandlerEscape, contain
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import ERRORS, ErrorCode, SessionError, short_key
from mcp_tornado.streams.responses import Outcome, ResponseStream
from mcp_tornado.streams.tasks import Spawn

_log = get_logger(__name__)

TRANSPORT_KIND: Final = "streamable-http"
_MAX_LOGGED_CHARACTERS: Final = 200
"""How much of a client's value the log shows."""


def error_object(error: BaseModel) -> dict[str, Any]:
    """Return the SDK's `ErrorData` as JSON."""
    return error.model_dump(by_alias=True, mode="json", exclude_none=True)


def failure(request: Request, exception: Exception, session_key: str | None = None) -> Outcome:
    """Return the outcome of a request whose handler has raised.

    The SDK's own errors and errors of the session reach the client as they are. Of any other exception the client
    learns only that it happened; the log has the traceback.

    Args:
        request: The request.
        exception: The exception.
        session_key: The key of the request's session; `None` if it has none.
    """
    known = handler_exception_to_error_data(exception)
    if known is not None:
        return Outcome(jsonrpc.error(request.id, error_object(known)))
    if isinstance(exception, SessionError):
        error = jsonrpc.error(request.id, exception.to_error())
        return Outcome(error, exception.status, exception.retry_after)
    log_failed_handler("handler.failed", exception, request.method, request.params, session_key)
    return Outcome(jsonrpc.error(request.id, SessionError(ErrorCode.INTERNAL_ERROR).to_error()))


def log_failed_handler(
    event: str, exception: Exception, method: str, params: Mapping[str, Any] | None, session_key: str | None
) -> None:
    """Log the exception that a handler has raised, which is being handled, with its traceback.

    Args:
        event: The name of the event.
        exception: The exception.
        method: The method of the message.
        params: The params of the message; for a tool call the name of the tool is logged.
        session_key: The key of the message's session; `None` if it has none.
    """
    raised = exception.__cause__ if isinstance(exception, HandlerEscape) else exception
    values: dict[str, object] = {"error": type(raised).__name__, "method": method[:_MAX_LOGGED_CHARACTERS]}
    if method == "tools/call":
        values["tool"] = str((params or {}).get("name"))[:_MAX_LOGGED_CHARACTERS]
    if session_key is not None:
        values["session"] = short_key(session_key)
    _log.exception(event, **values)


def lost(request_id: RequestId, code: ErrorCode) -> Outcome:
    """Return the outcome of a call that is cancelled because the session or the server ends."""
    spec = ERRORS[code]
    error = {"code": CALL_LOST, "message": spec.message, "data": {"code": code.value}}
    return Outcome(jsonrpc.error(request_id, error), spec.status, spec.retry_after)


class CallContext:
    """The context that the SDK's dispatcher gets for one message of a session: the SDK's `DispatchContext`.

    Args:
        session_key: The session's key.
        request: The message; `None` for a notification.
        stream: The stream that the handler's messages go to; `None` drops them.
        http_request: The HTTP request that tools can read; `None` if there is none.
        outgoing: Sends server requests (requests from the server to the client).
        close_stream: Closes the POST's connection, so that the client resumes; `None` if the client could not resume.
        close_standalone: Does the same for the standalone stream.
    """

    def __init__(
        self,
        session_key: str,
        request: Request | None,
        stream: ResponseStream | None,
        http_request: StarletteRequest | None,
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
            headers=LazyHeaders(http_request) if http_request is not None else None,
        )
        self.message_metadata: MessageMetadata = ServerMessageMetadata(
            request_context=http_request,
            close_sse_stream=close_stream,
            close_standalone_sse_stream=close_standalone,
            can_send_request=may_send,
        )

    @property
    def request_id(self) -> RequestId | None:
        """The id of the request; `None` for a notification."""
        return self._request.id if self._request is not None else None

    @property
    def can_send_request(self) -> bool:
        """Whether the server can send a request to the client now."""
        return self._open and self.transport.can_send_request

    @property
    def cancel_requested(self) -> anyio.Event:
        """Is set when the client cancels the request."""
        if self._cancel_requested is None:
            self._cancel_requested = anyio.Event()
        return self._cancel_requested

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request to the client on this call's stream and return the result of its reply.

        Raises:
            NoBackChannelError: There is no stream to send it on.
            MCPError: The client replied with an error, or did not reply in time.
        """
        if self._stream is None or not self.can_send_request:
            raise NoBackChannelError(method)
        return await self._outgoing.send(self._session_key, self._stream.emit, method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification on this call's stream; drop it if it cannot be sent."""
        if self._stream is None or not self._open:
            return
        try:
            await self._stream.emit(jsonrpc.notification(method, params))
        except SessionError:
            _log.warning("message.dropped", session=short_key(self._session_key), method=method)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress if the client asked for it (MCP, basic/utilities/progress)."""
        token = jsonrpc.progress_token(self._request.params) if self._request is not None else None
        if token is not None:
            params = jsonrpc.progress_params(token, progress, total, message)
            await self.notify("notifications/progress", params)

    def close(self) -> None:
        """Send no more messages: the request has been answered."""
        self._open = False


class Call:
    """A running request of a session. It goes on when its POST ends, and it is answered exactly once.

    Args:
        request: The request.
        context: What the handler sees.
        stream: Takes the answer.
        metrics: Counts tool calls.
        spawn: Starts a task that a drain waits for.
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
        self._is_settled = False
        self._settling: asyncio.Task[None] | None = None
        """The task that answers instead of the handler: the call was cancelled or aborted."""
        self._answered = asyncio.Event()

    def start(
        self, on_request: OnRequest, on_success: Callable[[], Awaitable[None]] | None = None
    ) -> asyncio.Task[None]:
        """Run the handler in a new task until the request is answered, and return that task.

        Args:
            on_request: The entry point of the SDK's dispatcher for requests.
            on_success: Awaited after the handler has succeeded and before the request is answered.
        """
        self._task = asyncio.create_task(self._run(on_request, on_success))
        return self._task

    async def _run(self, on_request: OnRequest, on_success: Callable[[], Awaitable[None]] | None) -> None:
        answer, outcome = None, "cancelled"
        with suppress(asyncio.CancelledError):  # whoever has cancelled this task answers
            answer, outcome = await self._outcome(on_request, on_success)
        if self.request.method == "tools/call":
            self._metrics.count_tool_call((self.request.params or {}).get("name"), outcome)
        if answer is not None:
            await self._settle(answer)

    async def _outcome(
        self, on_request: OnRequest, on_success: Callable[[], Awaitable[None]] | None
    ) -> tuple[Outcome, str]:
        request = self.request
        try:
            handler = on_request(self._context, request.method, request.params)
            value = await contain(handler, lambda: self._settling is not None)
            if on_success is not None:
                await on_success()
        except Exception as exception:
            return failure(request, exception, self.stream.key), "error"
        return Outcome(jsonrpc.result(request.id, value)), "error" if value.get("isError") is True else "ok"

    def refuse(self, error: SessionError) -> asyncio.Task[None]:
        """Answer with an error instead of running the handler."""
        self._task = asyncio.create_task(self._settle(failure(self.request, error)))
        return self._task

    def cancel(self) -> bool:
        """Cancel the call for the client and answer it with -32800 at once.

        Returns:
            Whether the request had no answer yet. If it has one, nothing happens.
        """
        if self._is_settled:
            return False
        self._context.cancel_requested.set()
        error = {"code": REQUEST_CANCELLED, "message": "Request cancelled"}
        self._end(Outcome(jsonrpc.error(self.request.id, error)))
        return True

    def abort(self, code: ErrorCode) -> None:
        """Cancel the call because the session or the server ends; answer it with this error at once."""
        self._end(lost(self.request.id, code))

    def _end(self, outcome: Outcome) -> None:
        if self._is_settled:
            return  # an answer that is being written is not interrupted
        # The answer does not wait for the handler: a plain function in a thread cannot be interrupted.
        if self._settling is None:
            self._settling = self._spawn(self._settle(outcome))
        if self._task is not None:
            self._task.cancel()

    async def _settle(self, outcome: Outcome) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        self._context.close()
        try:
            await self.stream.add_answer(outcome)
        finally:
            self._answered.set()

    @property
    def is_being_answered(self) -> bool:
        """Whether the answer is being written now."""
        return (self._is_settled or self._settling is not None) and not self._answered.is_set()

    async def settled(self) -> None:
        """Wait until an answer that is being written has been written; return at once if there is none."""
        if self._is_settled or self._settling is not None:
            await self._answered.wait()
