"""Requests of the server's to its clients, and who waits for the replies."""

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
from mcp_tornado.log import get_logger

_log = get_logger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
"""Puts a message on the stream that the request belongs to."""


@dataclass(slots=True)
class _Pending:
    session_key: str
    reply: asyncio.Future[Reply]
    on_progress: ProgressFnT | None


class OutgoingRequests:
    """Every request of this process's servers that waits for a client's reply.

    Ids are strings that name the process, so that a reply which arrives at another process can be sent on, and
    that no client can take for one of its own numbers.

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
            MCPError: The client answered with an error, or the time-out of `options` passed.
        """
        options = options or {}
        request_id = f"{self._process}.{next(self._numbers)}"
        on_progress = options.get("on_progress")
        if on_progress is not None:
            # The id is the progress token too, so one table serves replies and progress.
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
        """Return the other process that waits for the reply to a request, as its id tells; `None`: none does."""
        process = request_id.partition(".")[0] if isinstance(request_id, str) else ""
        return process if process and process != self._process else None

    def resolve(self, session_key: str, reply: Reply) -> None:
        """Hand a client's reply to who waits for it in this process; one that nobody waits for is dropped."""
        pending = self._find(session_key, reply.id)
        if pending is None or pending.reply.done():
            _log.debug("reply.dropped", request_id=reply.id)
            return
        pending.reply.set_result(reply)

    def give_up(self) -> None:
        """Fail every request that waits: replies may have come and been lost while this process was taken for dead."""
        error = {"code": CALL_LOST, "message": "The reply was lost: this process was stopped for too long"}
        for request_id, pending in self._pending.items():
            if not pending.reply.done():
                pending.reply.set_result(Reply(request_id, None, error))

    async def report_progress(self, session_key: str, notification: Notification) -> None:
        """Hand the client's progress on a request to who asked for it."""
        params = notification.params or {}
        token, progress = params.get("progressToken"), params.get("progress")
        total, message = params.get("total"), params.get("message")
        pending = self._find(session_key, token) if jsonrpc.is_request_id(token) else None
        if pending is None or pending.on_progress is None or not isinstance(progress, int | float):
            return
        await pending.on_progress(
            float(progress),
            float(total) if isinstance(total, int | float) else None,
            message if isinstance(message, str) else None,
        )

    def _find(self, session_key: str, request_id: RequestId | None) -> _Pending | None:
        pending = self._pending.get(request_id) if isinstance(request_id, str) else None
        # Ids can be guessed: a client must not answer for another session.
        return pending if pending is not None and pending.session_key == session_key else None

    async def _withdraw(self, send: Send, request_id: str, reason: str, options: CallOptions) -> None:
        """Tell the client that nobody waits any more (MCP, basic/utilities/cancellation)."""
        if options.get("cancel_on_abandon", True):
            await send(jsonrpc.notification("notifications/cancelled", {"requestId": request_id, "reason": reason}))
