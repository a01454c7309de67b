"""The MCP endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcp_tornado.jsonrpc import Request, decode, is_object, parse
from mcp_tornado.kernel import HANDSHAKE_VERSIONS, STATELESS_VERSIONS, StatelessExchange, envelope_version
from mcp_tornado.sessions import ErrorCode, Session, SessionError
from mcp_tornado.streams.responses import Answer, SessionExchange
from mcp_tornado.web.base import EVENT_STREAM, JSON, BaseHandler
from mcp_tornado.web.validation import SESSION_HEADER, VERSION_HEADER, unsupported_version


class MCPHandler(BaseHandler):
    """`/mcp`: POST, GET and DELETE, in both protocol eras (MCP, basic/transports, Streamable HTTP).

    A POST may do without a session: `initialize` makes one, and the stateless era has none. Its method finds
    out, since that depends on the body.
    """

    allowed = ("GET", "POST", "DELETE")

    @property
    def _version(self) -> str | None:
        return self.request.headers.get(VERSION_HEADER)

    @property
    def _handshake_era(self) -> bool:
        return self._version is None or self._version in HANDSHAKE_VERSIONS

    @property
    def _mode(self) -> str:
        return self.services.settings.sessions.mode

    def allowed_now(self) -> Sequence[str]:
        """Return the methods that there are without a session, or with one."""
        return ("POST",) if self._mode == "off" or self._version in STATELESS_VERSIONS else self.allowed

    def needs_session(self) -> bool:
        """Say whether this request needs a session, as far as its head tells."""
        if self.request.method == "OPTIONS":
            return False
        if self.request.method not in self.allowed_now():
            raise SessionError(ErrorCode.METHOD_NOT_ALLOWED)
        if self.request.method != "POST":
            return True
        return self._mode != "off" and self._handshake_era and SESSION_HEADER in self.request.headers

    async def post(self) -> None:
        """Handle one JSON-RPC message, or a batch."""
        session: Session | None = getattr(self, "session", None)
        raw = self.body()
        body, malformed = _decoded(raw)
        stateless = not self._handshake_era or _names_stateless_version(body)
        needs_one = session is None and not stateless and self._mode == "required"
        if needs_one and (not raw or (malformed is None and not _is_initialize(body))):
            # Whoever has no session hears of that first, whatever else is wrong with the request.
            raise SessionError(ErrorCode.SESSION_REQUIRED)
        self._check_accept()
        self.check_content_type()
        if malformed is not None:
            raise malformed
        if stateless:
            await self._post_stateless(body)
        elif _is_initialize(body):
            await self._handshake(body, session)
        elif session is not None:
            await self._answer(await self.services.kernel.post(session, body, self.inbound()))
        else:
            await self._answer(self.services.kernel.without_session(body, self._version, self.inbound()))

    def _check_accept(self) -> None:
        json_only = self.services.settings.server.json_responses
        if not self.accepts(JSON) or not (json_only or self.accepts(EVENT_STREAM)):
            wanted = JSON if json_only else f"{JSON} and {EVENT_STREAM}"
            raise SessionError(ErrorCode.NOT_ACCEPTABLE, f"The Accept header must name {wanted}")

    async def _post_stateless(self, body: Any) -> None:
        version = self._version
        if version is not None and version not in STATELESS_VERSIONS and envelope_version(body) is None:
            raise unsupported_version(version)
        kernel = self.services.kernel
        await self._answer(await kernel.stateless(body, self.inbound(), accepts_stream=self.accepts(EVENT_STREAM)))

    async def _handshake(self, body: Any, session: Session | None) -> None:
        request = parse(body)
        if not isinstance(request, Request):
            raise SessionError(ErrorCode.INVALID_REQUEST)
        done = await self.services.kernel.initialize(request, self.client(), self.inbound(), session)
        if done.session_id is not None:
            self.set_header(SESSION_HEADER, done.session_id)
        self.write_json(done.response)

    async def _answer(self, exchange: SessionExchange | StatelessExchange | Answer | None) -> None:
        if exchange is None:
            self.write_nothing(202)
            return
        if isinstance(exchange, Answer):
            self._write_answer(exchange)
            return
        self.attach(exchange)
        answer = await exchange.answer()
        if answer is not None:
            self._exchange = None
            self._write_answer(answer)
            return
        await self.stream(exchange.reader(), "response")

    def _write_answer(self, answer: Answer) -> None:
        if answer.retry_after is not None:
            self.set_header("Retry-After", str(answer.retry_after))
        self.write_encoded(answer.body, answer.status)

    async def get(self) -> None:
        """Stream what the server says unasked, or resume a stream."""
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
        self.write_nothing(204)


def _decoded(raw: bytes) -> tuple[Any, SessionError | None]:
    """Return the JSON value of a body, or why it has none."""
    try:
        return decode(raw), None
    except SessionError as malformed:
        return None, malformed


def _is_initialize(body: Any) -> bool:
    return is_object(body) and body.get("method") == "initialize" and "id" in body


def _names_stateless_version(body: Any) -> bool:
    """Say whether a request is of the stateless era whatever its header says, so that it is told what is wrong there.

    `initialize` is of the handshake era whatever its envelope says (MCP 2026-07-28, basic/versioning).
    """
    return envelope_version(body) not in (None, *HANDSHAKE_VERSIONS) and "id" in body and not _is_initialize(body)
