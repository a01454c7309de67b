"""A client whose calls ask it a question each; it answers on a second connection."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from benchmarks.client import TIMEOUT_SECONDS, WrongAnswer
from benchmarks.servers import HOST
from benchmarks.sessions import INITIALIZE_PARAMS, PROTOCOL_VERSION


class AnsweringClient:
    """One session on two persistent connections: one for calls, and one for answers while a call is running."""

    def __init__(self, port: int) -> None:
        self._calls = HTTPConnection(HOST, port, timeout=TIMEOUT_SECONDS)
        self._answers = HTTPConnection(HOST, port, timeout=TIMEOUT_SECONDS)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        self._number = 0

    def open_session(self) -> None:
        """Initialize a session as the client of the SDK does.

        Raises:
            WrongAnswer: The server created no session.
        """
        response = self._post(self._calls, {"id": 0, "method": "initialize", "params": INITIALIZE_PARAMS}, 200)
        response.read()
        session_id = response.headers["Mcp-Session-Id"]
        if session_id is None:
            raise WrongAnswer("initialize was answered without Mcp-Session-Id")
        self._headers |= {"MCP-Protocol-Version": PROTOCOL_VERSION, "Mcp-Session-Id": session_id}
        self._post(self._calls, {"method": "notifications/initialized"}, 202).read()

    def call(self) -> None:
        """Call the tool, answer its question, and wait for the result.

        Raises:
            WrongAnswer: The result is not the expected one.
        """
        self._number += 1
        params = {"name": "ask", "arguments": {"question": f"{self._number}?"}}
        response = self._post(self._calls, {"id": self._number, "method": "tools/call", "params": params}, 200)
        result: Any = None
        for line in response:
            # Each message is one line. The event before the first message has no data.
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or not data:
                continue
            message = json.loads(data)
            if message.get("method") == "elicitation/create":
                answer = {"action": "accept", "content": {"number": self._number}}
                self._post(self._answers, {"id": message["id"], "result": answer}, 202).read()
            elif message.get("id") == self._number:
                result = message.get("result", {}).get("structuredContent")
        if result != {"result": self._number}:
            raise WrongAnswer(f"call {self._number} was answered with {result}")

    def close(self) -> None:
        self._calls.close()
        self._answers.close()

    def _post(self, connection: HTTPConnection, message: dict[str, Any], status: int) -> HTTPResponse:
        """Send a message and return its response, of which only the head has been read."""
        connection.request("POST", "/mcp", json.dumps({"jsonrpc": "2.0", **message}), self._headers)
        response = connection.getresponse()
        if response.status != status:
            raise WrongAnswer(f"{message} was answered with {response.status} {response.read()!r}")
        return response
