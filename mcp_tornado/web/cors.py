"""CORS: the headers that let a web page of an allowed origin use the server (Fetch standard)."""

from __future__ import annotations

import re
from typing import Final

from mcp_tornado.web.validation import SESSION_HEADER, VERSION_HEADER

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
_EXPOSED_HEADERS: Final = (SESSION_HEADER, VERSION_HEADER, "Retry-After", "WWW-Authenticate")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A name of a header field (RFC 9110, section 5.1)."""
_MAX_AGE_SECONDS: Final = 600


def response_headers(origin: str) -> dict[str, str]:
    """Return the headers with which a page of an allowed origin may read a response."""
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": ", ".join(_EXPOSED_HEADERS),
        "Vary": "Origin",
    }


def preflight_headers(methods: str, requested_headers: str) -> dict[str, str]:
    """Return the headers that answer a preflight request.

    Args:
        methods: The methods of the route, separated by commas.
        requested_headers: `Access-Control-Request-Headers`. All of these are allowed, in addition to a fixed list.
    """
    requested = [name.strip() for name in requested_headers.split(",")]
    known = {name.lower() for name in _REQUEST_HEADERS}
    others = [name for name in requested if _HEADER_NAME.fullmatch(name) and name.lower() not in known]
    return {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": ", ".join((*_REQUEST_HEADERS, *others)),
        "Access-Control-Max-Age": str(_MAX_AGE_SECONDS),
        "Vary": "Origin, Access-Control-Request-Headers",
    }
