"""Keys and values as FastMCP stores them."""

from __future__ import annotations

from typing import Any, Final

from tornado.httputil import HTTPHeaders

from mcp_tornado.hosting import InboundRequest

INBOUND: Final = InboundRequest("POST", "http", "127.0.0.1", "/mcp", "", HTTPHeaders({"User-Agent": "x"}), "192.0.2.1")
"""A request without a session."""
VISIBILITY_RULES: Final = "_visibility_rules"
"""The name of the rules that say which components a client sees."""


def value(content: object) -> dict[str, Any]:
    """Return a value as FastMCP stores it."""
    return {"value": content}


def rule(name: str, *, enabled: bool = False) -> dict[str, Any]:
    """Return a visibility rule for the components with this name."""
    return {"enabled": enabled, "names": [name], "tags": None}
