"""A client that uses little CPU time: one persistent connection with one session, and a prepared request."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

from benchmarks.servers import HOST
from benchmarks.sessions import INITIALIZE_PARAMS, PROTOCOL_VERSION

TIMEOUT_SECONDS = 30.0
"""Seconds after which a server counts as stuck."""

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SESSION_ID = re.compile(rb"\r\nmcp-session-id: *([^\r]+)", re.IGNORECASE)
_FIRST_NUMBER = 1_000_000
"""The number of the first call; all numbers have seven digits, so that all requests have the same length."""
_PARSE_INTERVAL = 100
"""The JSON of one answer in this many is parsed; the other answers are searched for the expected result."""


class WrongAnswer(Exception):
    """A server did not give the expected answer."""


class Client:
    """One persistent connection with one session."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = {
            "Host": f"{HOST}:{port}",
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "User-Agent": "python-httpx/0.28.1",
        }
        self._received = b""
        self._call = b""
        self._number = _FIRST_NUMBER

    def open_session(self) -> None:
        """Initialize a session as the client of the SDK does, and prepare the request that `call` sends.

        Raises:
            WrongAnswer: The server created no session.
        """
        head = self._exchange({"id": 0, "method": "initialize", "params": INITIALIZE_PARAMS}, 200)
        found = _SESSION_ID.search(head)
        if found is None:
            raise WrongAnswer("initialize was answered without Mcp-Session-Id")
        self._headers |= {"MCP-Protocol-Version": PROTOCOL_VERSION, "Mcp-Session-Id": found[1].decode()}
        self._exchange({"method": "notifications/initialized"}, 202)
        params = {"name": "add", "arguments": {"a": _FIRST_NUMBER, "b": 1}}
        call = self._make_request({"id": _FIRST_NUMBER, "method": "tools/call", "params": params})
        self._call = call.replace(b"%", b"%%").replace(b"%d" % _FIRST_NUMBER, b"%d")

    def call(self) -> None:
        """Send the next call, which adds one to its own number."""
        self._number += 1
        self.socket.sendall(self._call % (self._number, self._number))

    def receive(self) -> bool:
        """Read once, and return whether the answer to the last call is complete.

        Raises:
            WrongAnswer: The answer is not the expected one.
        """
        answer = self._receive()
        if answer is None:
            return False
        head, body = answer
        total = self._number + 1
        if not head.startswith(b"HTTP/1.1 200") or b'"result":%d}' % total not in body:
            raise WrongAnswer(f"call {self._number} was answered with {head!r} {body!r}")
        if self._number % _PARSE_INTERVAL == 0:
            message = json.loads(body)
            result = message.get("result", {})
            if message.get("id") != self._number or result.get("structuredContent") != {"result": total}:
                raise WrongAnswer(f"call {self._number} was answered with {message}")
        return True

    def _exchange(self, message: dict[str, Any], status: int) -> bytes:
        """Send a message, wait for its answer, and return the head of the answer."""
        self.socket.sendall(self._make_request(message))
        while (answer := self._receive()) is None:
            pass
        if not answer[0].startswith(b"HTTP/1.1 %d" % status):
            raise WrongAnswer(f"{message['method']} was answered with {answer}")
        return answer[0]

    def _make_request(self, message: dict[str, Any]) -> bytes:
        body = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"))
        headers = {**self._headers, "Content-Length": str(len(body))}
        lines = ["POST /mcp HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", body]).encode()

    def _receive(self) -> tuple[bytes, bytes] | None:
        """Read once; return the head and the body of the answer, or `None` if it is not complete."""
        data = self.socket.recv(65536)
        if not data:
            raise WrongAnswer("the server closed the connection")
        self._received += data
        head, blank_line, body = self._received.partition(b"\r\n\r\n")
        if not blank_line:
            return None
        length = _CONTENT_LENGTH.search(head)
        if length is None:
            raise WrongAnswer(f"an answer without Content-Length: {head!r}")
        if len(body) < int(length[1]):
            return None
        self._received = b""
        return head, body
