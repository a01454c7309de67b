"""Server requests (requests from the server to the client), and the handlers that wait for the replies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from mcp.shared.dispatcher import CallOptions, ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types import REQUEST_TIMEOUT, ErrorData

from mcp_tornado import jsonrpc
from mcp_tornado.jsonrpc import CALL_LOST, JSONObject, Notification, Reply, RequestId
from mcp_tornado.kernel.containment import contain, is_task_cancelled
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import short_key

_log = get_logger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
"""Writes a message to the stream that the request belongs to."""


@dataclass(slots=True)
class _Pending:
    session_key: str
    reply: asyncio.Future[Reply]
    on_progress: ProgressFnT | None


class OutgoingRequests:
    """The server requests of this process that wait for a client's reply.

    A request id is a string that begins with the name of the process. A reply that arrives at another process is
    routed by that name, and a client cannot confuse the id with one of its own numbers.

    Args:
        process: The name of this process.
    """

    def __init__(self, process: str) -> None:
        self._process: Final = process
        self._numbers = itertools.count(1)
        self._pending: dict[str, _Pending] = {}

    async def send(
        self, session_key: str, send: Send, method: str, params: JSONObject | None, options: CallOptions | None
    ) -> dict[str, Any]:
        """Send a request to a session's client and return the result of its reply.

        Raises:
            MCPError: The client replied with an error, or not within the timeout of `options`.
        """
        options = options or {}
        request_id = f"{self._process}.{next(self._numbers)}"
        on_progress = options.get("on_progress")
        if on_progress is not None:
            # The id is the progress token too: one table serves replies and progress.
            meta: dict[str, Any] = {**((params or {}).get("_meta") or {}), "progressToken": request_id}
            params = {**(params or {}), "_meta": meta}
        pending = _Pending(session_key, asyncio.get_running_loop().create_future(), on_progress)
        self._pending[request_id] = pending
        try:
            await send(jsonrpc.request(request_id, method, params))
            async with asyncio.timeout(options.get("timeout")):
                reply = await pending.reply
        except TimeoutError:
            await self._withdraw(send, request_id, "timed out", options)
            error = ErrorData(code=REQUEST_TIMEOUT, message=f"Request {method!r} timed out")
            raise MCPError.from_error_data(error) from None
        except asyncio.CancelledError:
            await asyncio.shield(self._withdraw(send, request_id, "the caller was cancelled", options))
            raise
        finally:
            del self._pending[request_id]
        if reply.error is not None:
            raise MCPError.from_error_data(ErrorData.model_validate(reply.error))
        return dict(reply.result or {})

    def process_of(self, request_id: RequestId | None) -> str | None:
        """Return the name of the other process that waits for the reply; `None` if that is this process or none."""
        process = request_id.partition(".")[0] if isinstance(request_id, str) else ""
        return process if process and process != self._process else None

    def resolve(self, session_key: str, reply: Reply) -> None:
        """Give a client's reply to the handler that waits for it in this process; drop it if there is none."""
        pending = self._find(session_key, reply.id)
        if pending is None or pending.reply.done():
            _log.debug("reply.dropped", request_id=reply.id)
            return
        pending.reply.set_result(reply)

    def fail_all(self) -> None:
        """Fail every waiting request: other processes may have removed this process's mailbox, with replies in it."""
        error = {"code": CALL_LOST, "message": "The reply was lost: this process was stopped for too long"}
        for request_id, pending in self._pending.items():
            if not pending.reply.done():
                pending.reply.set_result(Reply(request_id, None, error))

    async def report_progress(self, session_key: str, notification: Notification) -> None:
        """Give the client's progress notification to the handler that asked for it."""
        params = notification.params or {}
        token, progress = params.get("progressToken"), params.get("progress")
        total, message = params.get("total"), params.get("message")
        pending = self._find(session_key, token) if jsonrpc.is_request_id(token) else None
        done = _to_float(progress)
        if pending is None or pending.on_progress is None or done is None:
            return
        handler = pending.on_progress(done, _to_float(total), message if isinstance(message, str) else None)
        try:
            await contain(handler, is_task_cancelled)
        except Exception:
            _log.exception("progress.failed", session=short_key(session_key))

    def _find(self, session_key: str, request_id: RequestId | None) -> _Pending | None:
        pending = self._pending.get(request_id) if isinstance(request_id, str) else None
        # A client can guess ids. It must not answer for another session.
        return pending if pending is not None and pending.session_key == session_key else None

    async def _withdraw(self, send: Send, request_id: str, reason: str, options: CallOptions) -> None:
        """Notify the client that the server no longer waits (MCP, basic/utilities/cancellation)."""
        if options.get("cancel_on_abandon", True):
            await send(jsonrpc.notification("notifications/cancelled", {"requestId": request_id, "reason": reason}))


def _to_float(value: Any) -> float | None:
    """Return a number of the client as a float; `None` for any other value, and for an integer that is too large."""
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:
        return None
