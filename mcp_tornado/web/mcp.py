"""The MCP endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp_tornado.jsonrpc import Request, decode, is_object, parse
from mcp_tornado.kernel import HANDSHAKE_VERSIONS, STATELESS_VERSIONS, StatelessExchange, envelope_version
from mcp_tornado.sessions import ErrorCode, Session, SessionError
from mcp_tornado.streams.responses import Answer, SessionExchange
from mcp_tornado.web.base import JSON
from mcp_tornado.web.sse import EVENT_STREAM
from mcp_tornado.web.streaming import StreamingHandler
from mcp_tornado.web.validation import SESSION_HEADER, VERSION_HEADER, unsupported_version


class MCPHandler(StreamingHandler):
    """`/mcp`: POST, GET and DELETE, in both protocol eras (MCP, basic/transports, Streamable HTTP).

    A POST may need no session: `initialize` creates one, and the stateless era has none. That depends on the body,
    so `post` checks it.
    """

    allowed_methods = ("GET", "POST", "DELETE")

    @property
    def _version(self) -> str | None:
        return self.request.headers.get(VERSION_HEADER)

    @property
    def _is_handshake_era(self) -> bool:
        return self._version is None or self._version in HANDSHAKE_VERSIONS

    @property
    def _mode(self) -> str:
        return self.services.settings.sessions.mode

    def available_methods(self) -> Sequence[str]:
        """Return the methods that this request could have used: without sessions only POST."""
        return ("POST",) if self._mode == "off" or self._version in STATELESS_VERSIONS else self.allowed_methods

    def needs_session(self) -> bool:
        """Return whether the head of this request asks for a session.

        Raises:
            SessionError: `METHOD_NOT_ALLOWED`, if this mode or revision does not have the method.
        """
        if self.request.method == "OPTIONS":
            return False
        if self.request.method not in self.available_methods():
            raise SessionError(ErrorCode.METHOD_NOT_ALLOWED)
        if self.request.method != "POST":
            return True
        return self._mode != "off" and self._is_handshake_era and SESSION_HEADER in self.request.headers

    async def post(self) -> None:
        """Handle one JSON-RPC message or a batch."""
        session: Session | None = getattr(self, "session", None)
        raw = self.body()
        try:
            await self._post(session, raw)
        except SessionError as refused:
            if session is not None:
                await self.end_refused_replies(session, raw, refused)
            raise

    async def _post(self, session: Session | None, raw: bytes) -> None:
        body, malformed = _decode_body(raw)
        is_stateless = not self._is_handshake_era or _names_stateless_version(body)
        lacks_session = session is None and not is_stateless and self._mode == "required"
        if lacks_session and (not raw or (malformed is None and not _is_initialize(body))):
            # This error comes before all others: a client without a session must first create one.
            raise SessionError(ErrorCode.SESSION_REQUIRED)
        self._check_accept()
        self.check_content_type()
        if malformed is not None:
            raise malformed
        if is_stateless:
            await self._post_stateless(body)
        elif _is_initialize(body):
            await self._handshake(body, session)
        elif session is not None:
            await self._answer(await self.services.kernel.post(session, body, self.describe_request()))
        else:
            await self._answer(self.services.kernel.without_session(body, self._version, self.describe_request()))

    def _check_accept(self) -> None:
        is_json_only = self.services.settings.server.json_responses
        if not self.accepts(JSON) or not (is_json_only or self.accepts(EVENT_STREAM)):
            wanted = JSON if is_json_only else f"{JSON} and {EVENT_STREAM}"
            raise SessionError(ErrorCode.NOT_ACCEPTABLE, f"The Accept header must name {wanted}")

    async def _post_stateless(self, body: Any) -> None:
        version = self._version
        if version is not None and version not in STATELESS_VERSIONS and envelope_version(body) is None:
            raise unsupported_version(version)
        kernel = self.services.kernel
        await self._answer(
            await kernel.stateless(body, self.describe_request(), accepts_stream=self.accepts(EVENT_STREAM))
        )

    async def _handshake(self, body: Any, session: Session | None) -> None:
        request = parse(body)
        if not isinstance(request, Request):
            raise SessionError(ErrorCode.INVALID_REQUEST)
        result = await self.services.kernel.initialize(
            request, self.describe_client(), self.describe_request(), session
        )
        if result.session_id is not None:
            self.set_header(SESSION_HEADER, result.session_id)
        self.write_json(result.response)

    async def _answer(self, exchange: SessionExchange | StatelessExchange | Answer | None) -> None:
        if exchange is None:
            self.write_empty(202)
            return
        if isinstance(exchange, Answer):
            self._write_answer(exchange)
            return
        self.set_disconnect_listener(exchange)
        answer = await exchange.answer()
        if answer is not None:
            self.set_disconnect_listener(None)
            self._write_answer(answer)
            return
        await self.stream(exchange.reader(), "response")

    def _write_answer(self, answer: Answer) -> None:
        if answer.retry_after is not None:
            self.set_header("Retry-After", str(answer.retry_after))
        self.write_encoded(answer.body, answer.status)

    async def get(self) -> None:
        """Open the standalone stream, or resume a stream of the session."""
        if not self.accepts(EVENT_STREAM):
            raise SessionError(ErrorCode.NOT_ACCEPTABLE, f"The Accept header must name {EVENT_STREAM}")
        kernel = self.services.kernel
        reader = await kernel.open_stream(self.session, self.request.headers.get("Last-Event-ID"))
        try:
            await self.stream(reader, "standalone")
        finally:
            kernel.release(reader)

    async def delete(self) -> None:
        """End the session."""
        await self.services.kernel.terminate(self.session)
        self.write_empty(204)


def _decode_body(raw: bytes) -> tuple[Any, SessionError | None]:
    """Return the JSON value of a body, or `None` and the error."""
    try:
        return decode(raw), None
    except SessionError as malformed:
        return None, malformed


def _is_initialize(body: Any) -> bool:
    return is_object(body) and body.get("method") == "initialize" and "id" in body


def _names_stateless_version(body: Any) -> bool:
    """Return whether the envelope of a request puts it in the stateless era, whatever its header is.

    The stateless era then answers what is wrong with the header. `initialize` is always of the handshake era (MCP
    2026-07-28, basic/versioning).
    """
    return envelope_version(body) not in (None, *HANDSHAKE_VERSIONS) and "id" in body and not _is_initialize(body)
