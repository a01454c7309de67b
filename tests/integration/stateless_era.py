"""Requests of the stateless era (MCP 2026-07-28)."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

import httpx

from tests.integration.wire import STATELESS, EventStream, Wire, answer_text

HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022
ELICITATION_CAPABILITY: Final[dict[str, Any]] = {
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}
}
"""The part of an envelope with which a client says that it can answer questions."""
NEVER_STREAM: Final[dict[str, Any]] = {"EVENTS__STREAM_AFTER_SECONDS": 10}
"""Settings with which a call that sends no message is answered with JSON, however busy the machine is."""


def envelope(version: str = STATELESS, **more: Any) -> dict[str, Any]:
    """Return the `_meta` of a request."""
    return {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
        **more,
    }


def stateless_headers(method: str, name: str | None = None, version: str = STATELESS) -> dict[str, str]:
    """Return the headers that mirror a request: its revision, its method, and the name of what it asks for."""
    named = {"Mcp-Name": name} if name is not None else {}
    return {"MCP-Protocol-Version": version, "Mcp-Method": method, **named}


def encode_header(value: str) -> str:
    """Return a header value in the encoding for values that are not plain ASCII."""
    return f"=?base64?{b64encode(value.encode()).decode()}?="


async def post_tool_call(wire: Wire, tool: str, **arguments: Any) -> httpx.Response:
    """Call a tool and return the response."""
    message = wire.tool_request(tool, meta=envelope(), **arguments)
    return await wire.post(message, **stateless_headers("tools/call", tool))


async def read_acknowledgement(events: EventStream) -> Any:
    """Return the notifications that a subscription acknowledges in its first message."""
    assert events.response.headers["Content-Type"] == "text/event-stream"
    message = await events.next_message()
    assert message["method"] == "notifications/subscriptions/acknowledged"
    return message["params"]["notifications"]


async def send_stateless(wire: Wire, method: str, name: str | None = None, /, **params: Any) -> dict[str, Any]:
    """Send a request and return its result or its error; `name` is the value of the header `Mcp-Name`."""
    message = wire.request(method, {**params, "_meta": envelope()})
    answer = (await wire.post(message, **stateless_headers(method, name))).json()
    return answer["result"] if "result" in answer else answer["error"]


class MirroredTool:
    """A tool some of whose arguments are mirrored in headers."""

    def __init__(self, wire: Wire, name: str) -> None:
        self._wire = wire
        self._name = name

    async def refuses(self, arguments: dict[str, Any], **headers: str) -> bool:
        """Return whether a call is refused because of its headers; if it is not, it must succeed."""
        message = self._wire.tool_request(self._name, meta=envelope(), **arguments)
        response = await self._wire.post(message, **{**stateless_headers("tools/call", self._name), **headers})
        if response.status_code == 200:
            assert answer_text(response.json())
            return False
        error = response.json()["error"]
        assert (response.status_code, error["code"], response.json()["id"]) == (400, HEADER_MISMATCH, message["id"])
        assert response.headers["Content-Type"] == "application/json"
        return True
