"""The MCP endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mcp_tornado.jsonrpc import Request, decode, is_object, parse
from mcp_tornado.kernel import HANDSHAKE_VERSIONS, STATELESS_VERSIONS, StatelessExchange, envelope_version
from mcp_tornado.sessions import ErrorCode, Session, SessionError
from mcp_tornado.streams.frames import Frame
from mcp_tornado.streams.responses import Answer, AnswerForm, SessionExchange
from mcp_tornado.web.base import JSON
from mcp_tornado.web.services import Services
from mcp_tornado.web.sse import EVENT_STREAM
from mcp_tornado.web.streaming import StreamingHandler
from mcp_tornado.web.validation import SESSION_HEADER, VERSION_HEADER, unsupported_version

_ENDED: Final = frozenset({ErrorCode.SESSION_NOT_FOUND, ErrorCode.SESSION_EXPIRED})
"""The errors of a well-formed session id that names no session of this client."""


class MCPHandler(StreamingHandler):
    """`/mcp`: POST, GET and DELETE, in both protocol eras (MCP, basic/transports, Streamable HTTP).

    A POST may need no session: `initialize` creates one, and the stateless era has none. That depends on the body,
    so `post` checks it.
    """

    allowed_methods = ("GET", "POST", "DELETE")

    def initialize(self, services: Services) -> None:
        """Set the parts of the application that the handler uses."""
        super().initialize(services)
        self._session_ended: SessionError | None = None
        """The error for a POST whose session has ended, unless its body is `initialize`."""

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

    async def load_session(self) -> None:
        """Set `session`; the session of a POST may have ended, because `initialize` then creates a new one.

        Raises:
            SessionError: The error for the client.
        """
        try:
            await super().load_session()
        except SessionError as error:
            if self.request.method != "POST" or error.code not in _ENDED:
                raise
            self._session_ended = error

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
        names_stateless_version = _names_stateless_version(body)
        # `initialize` ignores the header, unless the envelope in the body is of the stateless era too: there the method
        # is unknown.
        is_initialize = _is_initialize(body) and (self._is_handshake_era or not names_stateless_version)
        if self._session_ended is not None and not is_initialize:
            raise self._session_ended
        is_stateless = not is_initialize and (not self._is_handshake_era or names_stateless_version)
        lacks_session = session is None and not is_stateless and self._mode == "required"
        if lacks_session and (not raw or (malformed is None and not is_initialize)):
            # This error comes before all others: a client without a session must first create one.
            raise SessionError(ErrorCode.SESSION_REQUIRED)
        form = self._negotiate_form(is_initialize=is_initialize)
        self.check_content_type()
        if malformed is not None:
            raise malformed
        if is_stateless:
            await self._post_stateless(body, form)
        elif is_initialize:
            await self._handshake(body)
        elif session is not None:
            await self._answer(await self.services.kernel.post(session, body, self.describe_request(), form))
        else:
            await self._answer(self.services.kernel.without_session(body, self._version, self.describe_request(), form))

    def _negotiate_form(self, *, is_initialize: bool) -> AnswerForm:
        """Return the form of the answer to a POST, by its `Accept`.

        Raises:
            SessionError: `NOT_ACCEPTABLE`: the client accepts neither form, or no form that this server has.
        """
        accepts_json, accepts_stream = self.accepts(JSON), self.accepts(EVENT_STREAM)
        if accepts_json:
            return AnswerForm.ANY if accepts_stream else AnswerForm.JSON
        needs_json = self.services.settings.server.json_responses and not is_initialize
        if accepts_stream and not needs_json:
            return AnswerForm.STREAM
        wanted = JSON if needs_json else f"{JSON}, {EVENT_STREAM} or both"
        raise SessionError(ErrorCode.NOT_ACCEPTABLE, f"The Accept header must name {wanted}")

    async def _post_stateless(self, body: Any, form: AnswerForm) -> None:
        version = self._version
        if version is not None and version not in STATELESS_VERSIONS and envelope_version(body) is None:
            raise unsupported_version(version)
        await self._answer(await self.services.kernel.stateless(body, self.describe_request(), form))

    async def _handshake(self, body: Any) -> None:
        request = parse(body)
        if not isinstance(request, Request):
            raise SessionError(ErrorCode.INVALID_REQUEST)
        if self._mode != "off" and not self._is_handshake_era and SESSION_HEADER in self.request.headers:
            # Of a revision without sessions, `prepare` checks none. The body of `initialize` negotiates the revision.
            await self.load_session()
        result = await self.services.kernel.initialize(
            request, self.describe_client(), self.describe_request(), getattr(self, "session", None)
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
        priming = Frame(reader.priming_id, None) if reader.priming_id is not None else None
        try:
            await self.stream(reader, "standalone", opening=[priming])
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
    """Return whether a body is the request `initialize`."""
    return is_object(body) and body.get("method") == "initialize" and "id" in body


def _names_stateless_version(body: Any) -> bool:
    """Return whether the envelope of a request puts it in the stateless era, whatever its header is.

    The stateless era then answers what is wrong with the header.
    """
    return envelope_version(body) not in (None, *HANDSHAKE_VERSIONS) and "id" in body
