"""MCP for clients that make short plain requests: send a message, receive events, abort a request."""

from __future__ import annotations

import math
from typing import Final

from mcp_tornado.jsonrpc import decode, is_object, is_request_id
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.web import headers
from mcp_tornado.web.base import JSON, BaseHandler
from mcp_tornado.web.sse import EVENT_STREAM
from mcp_tornado.web.streaming import StreamingHandler

_log = get_logger(__name__)

_MAX_WAIT_SECONDS: Final = 60.0
"""Longest time that a client may let a poll wait."""


class SendHandler(BaseHandler):
    """`/mcp/send`: accepts one JSON-RPC message for background work."""

    allowed_methods = ("POST",)

    async def post(self) -> None:
        """Accept the message; the client reads its answer from `/mcp/receive`."""
        body = self.body()
        try:
            self.check_content_type()
            accepted = await self.services.kernel.send(self.session, decode(body), self.describe_request())
        except SessionError as refused:
            await self.end_refused_replies(self.session, body, refused)
            raise
        self.write_json({"accepted": accepted}, 202)


class ReceiveHandler(StreamingHandler):
    """`/mcp/receive`: the events of the session, as a long poll or a stream."""

    allowed_methods = ("GET",)

    async def get(self) -> None:
        """Answer `{"events": [{"id", "message"}], "after"}`, or stream if the client asks for a stream."""
        after = self.get_query_argument("after", None) or None
        kernel = self.services.kernel
        if self.prefers_stream():
            reader = kernel.open_receiver(self.session, self.request.headers.get("Last-Event-ID") or after)
            try:
                await self.stream(reader, "receive", sends_priming=False, opening=[None])
            finally:
                kernel.release(reader)
            return
        events, position = await kernel.poll(self.session, after, self._wait_seconds())
        self.write_json({"events": [{"id": event.id, "message": event.message} for event in events], "after": position})

    def prefers_stream(self) -> bool:
        """Return whether `Accept` names `text/event-stream`, or accepts it by a wildcard but does not accept JSON."""
        accept = self.request.headers.get("Accept")
        return headers.names(accept, EVENT_STREAM) or (self.accepts(EVENT_STREAM) and not self.accepts(JSON))

    def _wait_seconds(self) -> float:
        text = self.get_query_argument("wait", "0")
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= _MAX_WAIT_SECONDS:
            raise SessionError(
                ErrorCode.INVALID_REQUEST, f"wait must be a number of seconds from 0 to {_MAX_WAIT_SECONDS:.0f}"
            )
        return seconds


class AbortHandler(BaseHandler):
    """`/mcp/abort`: cancels a running request, in whichever process it runs."""

    allowed_methods = ("POST",)

    async def post(self) -> None:
        """Cancel the request that the body names."""
        body = self.body()
        self.check_content_type()
        value = decode(body)
        request_id, reason = (value.get("requestId"), value.get("reason")) if is_object(value) else (None, None)
        if not is_request_id(request_id) or not isinstance(reason, str | None):
            raise SessionError(
                ErrorCode.INVALID_REQUEST, 'The body must be {"requestId": …, "reason": …}; reason is optional'
            )
        await self.services.kernel.abort(self.session, request_id)
        _log.info("request.aborted", reason=reason)
        self.write_json({"aborted": request_id}, 202)
