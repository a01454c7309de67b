"""A client of the application under test."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPHeaders

from tests.web.connection import Answer, Connection
from tests.web.messages import initialize_request, tool_call

_REQUEST_TIMEOUT_SECONDS = 30
_ACCEPT_BOTH = "application/json, text/event-stream"


@dataclass
class Client:
    """Sends requests to the application, by Tornado's client or on raw connections.

    Header names are given as keyword arguments, with underscores instead of hyphens.
    """

    http: AsyncHTTPClient
    base_url: str
    connections: list[Connection] = field(default_factory=list)

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc

    async def fetch(
        self,
        method: str,
        path: str,
        *,
        json_body: Any = ...,
        body: bytes | None = None,
        session: str | None = None,
        **headers: Any,
    ) -> Answer:
        """Send one request, and return the whole response.

        Args:
            method: The method.
            path: The path, with the query.
            json_body: A value that becomes the body; `...` sends none.
            body: The body, if `json_body` is not given.
            session: The session id.
            headers: Values of headers; a list sends a header several times, `None` leaves out a default one.
        """
        sent = HTTPHeaders()
        if session is not None:
            sent.add("Mcp-Session-Id", session)
        if json_body is not ...:
            body = json.dumps(json_body).encode()
        if method == "POST":
            # Without this header Tornado's client adds the media type of forms.
            sent["Content-Type"] = "application/json"
            body = b"" if body is None else body
        sent["Accept"] = "application/json" if path.startswith("/mcp/receive") else _ACCEPT_BOTH
        for name, values in headers.items():
            name = name.replace("_", "-")
            sent.pop(name, None)
            for value in [values] if isinstance(values, str) else values or ():
                sent.add(name, value)
        answer = await self.http.fetch(
            self.base_url + path,
            method=method,
            headers=sent,
            body=body,
            raise_error=False,
            follow_redirects=False,
            allow_nonstandard_methods=True,
            request_timeout=_REQUEST_TIMEOUT_SECONDS,
        )
        return Answer(answer.code, answer.headers, answer.body or b"")

    async def connect(self) -> Connection:
        host, _, port = self.host.rpartition(":")
        connection = Connection(*await asyncio.open_connection(host, int(port)))
        self.connections.append(connection)
        return connection

    async def open(self, method: str, path: str, *, json_body: Any = ..., **headers: str) -> Connection:
        """Send a request on a new connection, and return the connection."""
        connection = await self.connect()
        body = b"" if json_body is ... else json.dumps(json_body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}"]
        sent = {"Accept": _ACCEPT_BOTH, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if json_body is not ...:
            sent.update({"Content-Type": "application/json", "Content-Length": str(len(body))})
        lines += [f"{name}: {value}" for name, value in sent.items()]
        await connection.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return connection

    async def open_stream(self, method: str, path: str, **request: Any) -> Connection:
        """Send a request as `open` does, and check that the response is an event stream."""
        connection = await self.open(method, path, **request)
        await connection.read_head()
        assert connection.status == 200
        assert connection.headers["Content-Type"] == "text/event-stream"
        return connection

    async def initialize(self, version: str = "2025-11-25", *, ready: bool = True, **params: Any) -> str:
        """Create a session by handshake, and return its id.

        Args:
            version: The revision of the protocol.
            ready: Whether `notifications/initialized` is sent.
            params: Parameters of `initialize`.
        """
        answer = await self.fetch("POST", "/mcp", json_body=initialize_request(version, **params))
        assert answer.result()["protocolVersion"] == version
        if ready:
            notified = await self.fetch(
                "POST",
                "/mcp",
                session=answer.session,
                json_body={"jsonrpc": "2.0", "method": "notifications/initialized"},
            )
            assert (notified.status, notified.body) == (202, b"")
        return answer.session

    async def create_session(self) -> str:
        """Create a session without a handshake, and return its id."""
        answer = await self.fetch("POST", "/mcp/session")
        assert answer.status == 201
        return answer.session

    async def call_tool(self, session: str, tool: str = "echo", request_id: Any = 1, **arguments: Any) -> Answer:
        """Call a tool that answers with JSON."""
        return await self.fetch("POST", "/mcp", session=session, json_body=tool_call(tool, request_id, **arguments))
