"""A raw HTTP/1.1 connection, and the responses and events that a test reads from it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tornado.httputil import HTTPHeaders

from tests.web.messages import STATUS_OF_CODES

_CODES_WITH_RETRY = {"SESSION_LIMIT_REACHED", "STORE_UNAVAILABLE"}

_OPENING_NUMBER = "000000000000."
"""The beginning of the id of the priming event of a GET: the numbers of events in the log begin with 1."""


@dataclass
class Answer:
    """A whole HTTP response."""

    status: int
    headers: HTTPHeaders
    body: bytes

    @property
    def session(self) -> str:
        """The session id that the server has set."""
        return self.headers["Mcp-Session-Id"]

    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json", (self.status, self.headers, self.body)
        return json.loads(self.body)

    def result(self) -> Any:
        """Return the result of a JSON-RPC request that succeeded."""
        assert self.status == 200, (self.status, self.body)
        return self.json()["result"]

    def assert_error(self, code: str) -> dict[str, Any]:
        """Check that this is an error as the contract has it, and return the error object."""
        value = self.json()
        assert value.get("error", {}).get("data", {}).get("code") == code, (self.status, value)
        assert self.status == STATUS_OF_CODES[code]
        assert set(value) == {"jsonrpc", "id", "error"}
        assert value["jsonrpc"] == "2.0"
        assert value["id"] is None
        error = value["error"]
        assert set(error) == {"code", "message", "data"}
        assert isinstance(error["code"], int)
        assert isinstance(error["message"], str)
        assert error["message"]
        if code in _CODES_WITH_RETRY:
            assert int(self.headers["Retry-After"]) > 0
        if code == "METHOD_NOT_ALLOWED":
            assert self.headers["Allow"]
        return error


@dataclass
class Event:
    """One server-sent event."""

    fields: dict[str, str]

    @property
    def id(self) -> str | None:
        return self.fields.get("id")

    @property
    def message(self) -> Any:
        data = self.fields.get("data")
        return json.loads(data) if data else None


class Connection:
    """One raw HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._lines: list[str] = []
        self.status = 0
        self.opening: Event | None = None
        """The priming event with which a new GET stream begins; `read_event` leaves it out."""
        self.headers = HTTPHeaders()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_head(self) -> int:
        """Read the head of a response, and return its status."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, _, rest = text.partition("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = HTTPHeaders.parse(rest)
        return self.status

    async def read_answer(self) -> Answer:
        """Read a whole response to a request other than HEAD."""
        await self.read_head()
        body = b""
        if self.status in (204, 304):
            pass
        elif self.headers.get("Transfer-Encoding") == "chunked":
            while chunk := await self._read_chunk():
                body += chunk
        elif "Content-Length" in self.headers:
            body = await self.reader.readexactly(int(self.headers["Content-Length"]))
        else:
            body = await self.reader.read()
        return Answer(self.status, self.headers, body)

    async def _read_chunk(self) -> bytes:
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def read_event(self) -> Event | None:
        """Read one server-sent event; return `None` at the end of the response.

        Comments and the priming event of a GET are skipped.
        """
        while True:
            if "" in self._lines[:-1]:
                end = self._lines.index("")
                block, self._lines = self._lines[:end], self._lines[end + 1 :]
                fields = dict(line.partition(": ")[::2] for line in block if line and not line.startswith(":"))
                if fields.get("id", "").startswith(_OPENING_NUMBER):
                    self.opening = Event(fields)
                elif fields:
                    return Event(fields)
                continue
            chunk = await self._read_chunk()
            if not chunk:
                return None
            text = (self._lines.pop() if self._lines else "") + chunk.decode()
            self._lines += text.split("\n")

    async def is_closed(self) -> bool:
        """Return whether the server closes the connection without sending more."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.writer.close()

    async def wait_closed(self) -> None:
        await self.writer.wait_closed()
