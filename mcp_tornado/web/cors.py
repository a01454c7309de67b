"""CORS: the headers that let a web page of an allowed origin use the server (Fetch standard)."""

from __future__ import annotations

from typing import Final

from mcp_tornado.web.validation import SESSION_HEADER

_REQUEST_HEADERS: Final = (
    "Content-Type",
    "Accept",
    "Authorization",
    "Mcp-Session-Id",
    "MCP-Protocol-Version",
    "Last-Event-ID",
    "Mcp-Method",
    "Mcp-Name",
)
_PARAM_HEADER_PREFIX: Final = "mcp-param-"
_MAX_AGE_SECONDS: Final = 600


def response_headers(origin: str) -> dict[str, str]:
    """Return the headers with which a page of an allowed origin may read a response."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": SESSION_HEADER,
        "Vary": "Origin",
    }


def preflight_headers(methods: str, requested_headers: str) -> dict[str, str]:
    """Return the headers that answer a preflight request.

    Args:
        methods: The methods of the route, separated by commas.
        requested_headers: `Access-Control-Request-Headers`. Of these, the headers of tool parameters (`Mcp-Param-…`)
            are allowed, in addition to a fixed list.
    """
    requested = [name.strip() for name in requested_headers.split(",")]
    params = [name for name in requested if name.lower().startswith(_PARAM_HEADER_PREFIX)]
    return {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": ", ".join((*_REQUEST_HEADERS, *params)),
        "Access-Control-Max-Age": str(_MAX_AGE_SECONDS),
    }
