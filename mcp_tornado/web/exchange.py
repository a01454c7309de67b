"""MCP in short plain requests: send, receive, abort."""

from __future__ import annotations

import math
from typing import Final

from mcp_tornado.jsonrpc import decode, is_object, is_request_id
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.web.base import EVENT_STREAM, BaseHandler

_log = get_logger(__name__)

MAX_WAIT: Final = 60.0
"""Seconds a long poll may last."""


class SendHandler(BaseHandler):
    """`/mcp/send`: takes one JSON-RPC message for background work."""

    allowed = ("POST",)

    async def post(self) -> None:
        """Accept the message; its answer is read from `/mcp/receive`."""
        body = self.body()
        self.check_content_type()
        accepted = await self.services.kernel.send(self.session, decode(body), self.inbound())
        self.write_json({"accepted": accepted}, 202)


class ReceiveHandler(BaseHandler):
    """`/mcp/receive`: what the server has for the session, as a long poll or a stream."""

    allowed = ("GET",)

    async def get(self) -> None:
        """Answer `{"events": [{"id", "message"}], "after"}`, or stream where the client names event streams."""
        after = self.get_query_argument("after", None) or None
        kernel = self.services.kernel
        if EVENT_STREAM in self.request.headers.get("Accept", "").lower():
            reader = kernel.open_receiver(self.session, self.request.headers.get("Last-Event-ID") or after)
            try:
                await self.stream(reader, "receive", primes=False)
            finally:
                kernel.release(reader)
            return
        events, position = await kernel.poll(self.session, after, self._wait())
        self.write_json({"events": [{"id": event.id, "message": event.message} for event in events], "after": position})

    def _wait(self) -> float:
        text = self.get_query_argument("wait", "0")
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= MAX_WAIT:
            raise SessionError(ErrorCode.INVALID_REQUEST, f"wait is a number of seconds from 0 to {MAX_WAIT:.0f}")
        return seconds


class AbortHandler(BaseHandler):
    """`/mcp/abort`: cancels a running request, wherever it runs."""

    allowed = ("POST",)

    async def post(self) -> None:
        """Cancel the request that the body names."""
        body = self.body()
        self.check_content_type()
        value = decode(body)
        request_id, reason = (value.get("requestId"), value.get("reason")) if is_object(value) else (None, None)
        if not is_request_id(request_id) or not isinstance(reason, str | None):
            raise SessionError(
                ErrorCode.INVALID_REQUEST, 'The body must be {"requestId": …, "reason": …}; the reason may be left out'
            )
        await self.services.kernel.abort(self.session, request_id)
        _log.info("request.aborted", reason=reason)
        self.write_json({"aborted": request_id}, 202)
