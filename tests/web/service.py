"""An application that is sent thousands of bad requests, and the check of each answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import structlog
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port

from mcp_tornado import create_app
from tests.web.connection import Answer, Connection
from tests.web.hosted import Hosted
from tests.web.lifespan import run_lifespan
from tests.web.messages import STATUS_OF_CODES, tool_call

LIVE_SESSION = object()
"""Stands for the id of a live session."""

_REQUEST_TIMEOUT_SECONDS = 30
_STATUSES_OF_THE_SDK = {200, 400, 403, 404, 406}
_WORDS_OF_INTERNALS = (b"Traceback", b'File "', b"site-packages", b"Error:", b"0x7f")

Headers = list[tuple[str, bytes]]


class Service:
    """One application, and one connection that is kept as long as the server keeps it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self._loop = loop
        self._port = port
        self._connection: Connection | None = None
        self._session: str | None = None

    def request(self, method: str, path: str, body: bytes | None, headers: Headers, session: object = None) -> Answer:
        """Send a request, and return the answer; the body of a stream is left out.

        Args:
            method: The method.
            path: The path, with the query.
            body: The body; `None` sends no Content-Length.
            headers: Names and values.
            session: A session id, `LIVE_SESSION`, or `None`.
        """
        request = self._request(method, path, body, headers, session)
        return self._loop.run_until_complete(asyncio.wait_for(request, _REQUEST_TIMEOUT_SECONDS))

    def send_raw(self, data: bytes) -> bytes:
        """Send bytes on a new connection, and return everything that the server sends."""

        async def exchange() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(data)
                writer.write_eof()
                return await reader.read()
            except ConnectionError:
                return b""
            finally:
                writer.close()

        return self._loop.run_until_complete(asyncio.wait_for(exchange(), _REQUEST_TIMEOUT_SECONDS))

    async def _request(self, method: str, path: str, body: bytes | None, headers: Headers, session: object) -> Answer:
        if self._session is None:
            created = await self._send("POST", "/mcp/session", b"", [])
            assert created.status == 201
            self._session = created.session
        headers = list(headers)
        if session is LIVE_SESSION:
            headers.append(("Mcp-Session-Id", self._session.encode()))
        elif session is not None:
            headers.append(("Mcp-Session-Id", session))
        answer = await self._send(method, path, body, headers)
        if method == "DELETE" and answer.status == 204:
            self._session = None
        return answer

    async def _send(self, method: str, path: str, body: bytes | None, headers: Headers) -> Answer:
        data = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode("latin-1")
        for name, value in headers:
            data += name.encode() + b": " + value + b"\r\n"
        if body is not None:
            data += b"Content-Length: %d\r\n" % len(body)
        data += b"\r\n" + (body or b"")
        # The connection is put back only after a whole answer.
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                return await self._exchange(connection, method, data)
            except (ConnectionError, asyncio.IncompleteReadError):
                connection.close()  # a server may close an idle connection at any time
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self._port))
        try:
            return await self._exchange(connection, method, data)
        except BaseException:
            connection.close()
            raise

    async def _exchange(self, connection: Connection, method: str, data: bytes) -> Answer:
        await connection.send(data)
        await connection.read_head()
        headers = connection.headers
        answer = Answer(connection.status, headers, b"")
        if headers.get("Content-Type") == "text/event-stream":
            connection.close()
        elif "Content-Length" not in headers and connection.status != 204:
            # Tornado's own answer to malformed HTTP has no Content-Length.
            answer.body = await connection.reader.read()
            connection.close()
        else:
            length = 0 if method == "HEAD" else int(headers.get("Content-Length", 0))
            answer.body = await connection.reader.readexactly(length)
            if headers.get("Connection") == "close":
                connection.close()
            else:
                self._connection = connection
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def assert_serves_calls(self) -> None:
        """Check that an ordinary call is answered."""
        body = json.dumps(tool_call("echo", 77, text="still here")).encode()
        answer = self.request("POST", "/mcp", body, json_headers(), LIVE_SESSION)
        assert answer.status == 200, answer.body
        assert answer.json()["result"]["content"] == [{"type": "text", "text": "still here"}]


def run_service() -> Iterator[Service]:
    """Start a service, yield it, check that it still serves, and stop it."""
    structlog.configure(
        processors=[structlog.processors.JSONRenderer(default=str)], logger_factory=structlog.ReturnLoggerFactory()
    )
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = create_app(
        Hosted().server,
        sessions={"max_sessions": 0},
        server={"allowed_hosts": ["*"], "max_body_bytes": 100_000},
        events={"stream_after_seconds": 30},
    )
    lifespan = run_lifespan(IOLoop.current(), app)
    next(lifespan)
    sock, port = bind_unused_port()

    async def listen() -> HTTPServer:
        server = HTTPServer(app)
        server.add_socket(sock)
        return server

    server = loop.run_until_complete(listen())
    service = Service(loop, port)
    yield service
    service.assert_serves_calls()
    service.close()
    server.stop()
    loop.run_until_complete(server.close_all_connections())
    assert next(lifespan, None) is None
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()
    structlog.reset_defaults()


def json_headers(*more: tuple[str, bytes]) -> Headers:
    return [("Accept", b"application/json, text/event-stream"), ("Content-Type", b"application/json"), *more]


def assert_acceptable(answer: Answer, request: bytes = b"", *, may_be_malformed: bool = False) -> None:
    """Check that an answer has one of the known shapes, and that its status is not a 5xx.

    Args:
        answer: The answer.
        request: What was sent: words of internals are allowed if the client has sent them.
        may_be_malformed: Whether Tornado may have refused the request as malformed HTTP.
    """
    summary = (answer.status, answer.body[:500])
    assert 200 <= answer.status < 500, summary
    assert not 300 <= answer.status < 400, summary
    for word in _WORDS_OF_INTERNALS:
        assert word not in answer.body or word in request, summary
    media_type = answer.headers.get("Content-Type")
    if media_type == "text/event-stream":
        assert answer.status == 200
        return
    if answer.status in (202, 204) and not answer.body:
        return
    if may_be_malformed and (answer.status, media_type, answer.body) == (400, None, b""):
        return
    if answer.status == 200 and media_type is not None and media_type.startswith("text/plain"):
        return  # metrics
    assert media_type == "application/json", summary
    if not answer.body:
        return  # HEAD
    value = json.loads(answer.body)
    if answer.status < 300 and (not isinstance(value, dict) or "error" not in value):
        return
    assert set(value) == {"jsonrpc", "id", "error"}, summary
    error = value["error"]
    assert isinstance(error["code"], int), summary
    assert isinstance(error["message"], str), summary
    if isinstance(error.get("data"), dict) and error["data"].get("code") in STATUS_OF_CODES:
        code = error["data"]["code"]
        # An answer of a handler that fails, as the SDK's does for an unknown prompt, is not an error of HTTP.
        has_handler_failed = (code, answer.status) == ("INTERNAL_ERROR", 200) and value["id"] is not None
        assert has_handler_failed or answer.status == STATUS_OF_CODES[code], summary
        assert value["id"] is None, summary
        assert code != "INTERNAL_ERROR", summary
    else:
        assert answer.status in _STATUSES_OF_THE_SDK, summary
        assert set(error) <= {"code", "message", "data"}, summary
        assert error["code"] != -32603, summary
