"""A client on a raw connection, for the tests of the HTTP server."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass


@dataclass
class Response:
    """A whole response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    version: str

    def assert_bad_request(self) -> None:
        """Check that this is the answer to malformed HTTP."""
        assert self.status == 400
        assert self.headers["content-type"] == "application/json"
        assert self.headers["connection"] == "close"
        body = json.loads(self.body)
        assert set(body) == {"jsonrpc", "id", "error"}
        assert (body["jsonrpc"], body["id"]) == ("2.0", None)
        assert set(body["error"]) >= {"code", "message"}
        assert isinstance(body["error"]["code"], int)


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)

    def send_request(self, path: str, *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> None:
        """Send the head of a request."""
        self.send("\r\n".join([f"{method} {path} {version}", "Host: localhost", *headers, "", ""]))

    def send_post(self, path: str, body: bytes, *headers: str) -> None:
        self.send_request(path, f"Content-Length: {len(body)}", *headers, method="POST")
        self.send(body)

    async def read_head(self) -> tuple[str, int, dict[str, str]]:
        """Read the head of a response: version, status and headers, none of which may be repeated."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        version, status, _ = lines[0].split(" ", 2)
        headers = [line.split(": ", 1) for line in lines[1:]]
        assert len({name.lower() for name, _ in headers}) == len(headers), headers
        return version, int(status), {name.lower(): value for name, value in headers}

    async def read_chunk(self) -> bytes:
        size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def read_response(self, *, has_body: bool = True) -> Response:
        """Read a whole response.

        Args:
            has_body: `False` for the response to a HEAD request.
        """
        version, status, headers = await self.read_head()
        body = b""
        if has_body and status not in (204, 304) and status >= 200:
            if headers.get("transfer-encoding") == "chunked":
                assert "content-length" not in headers
                while piece := await self.read_chunk():
                    body += piece
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            else:
                body = await self.reader.read()
        return Response(status, headers, body, version)

    async def is_at_end(self) -> bool:
        """Return whether the server closes the connection without sending more."""
        return await self.reader.read() == b""

    def pause_reading(self) -> None:
        """Stop reading, so that the server's output fills the buffers."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume_reading(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        self.writer.transport.abort()
