"""JSON-RPC messages that the tests send, and the error table that they check against."""

from __future__ import annotations

from typing import Any

STATUS_OF_CODES = {
    "SESSION_REQUIRED": 400,
    "SESSION_ID_MALFORMED": 400,
    "SESSION_NOT_FOUND": 404,
    "SESSION_EXPIRED": 404,
    "SESSION_LIMIT_REACHED": 503,
    "SESSION_CREATION_FAILED": 500,
    "SESSION_CONFLICT": 409,
    "STORE_UNAVAILABLE": 503,
    "REQUEST_NOT_FOUND": 404,
    "PARSE_ERROR": 400,
    "INVALID_REQUEST": 400,
    "UNSUPPORTED_PROTOCOL_VERSION": 400,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "NOT_ACCEPTABLE": 406,
    "METHOD_NOT_ALLOWED": 405,
    "ROUTE_NOT_FOUND": 404,
    "PAYLOAD_TOO_LARGE": 413,
    "FORBIDDEN_ORIGIN": 403,
    "MISDIRECTED_HOST": 421,
    "SERVER_DRAINING": 503,
    "INTERNAL_ERROR": 500,
}
"""The table of errors in the contract, repeated here so that the tests do not take it from the code."""

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def initialize_request(version: str = "2025-11-25", **params: Any) -> dict[str, Any]:
    params = {
        "protocolVersion": version,
        "capabilities": {},
        "clientInfo": {"name": "tests", "version": "1"},
        **params,
    }
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def tool_call(tool: str = "echo", request_id: Any = 1, meta: Any = None, **arguments: Any) -> dict[str, Any]:
    """Return a `tools/call` request."""
    if tool == "echo":
        arguments.setdefault("text", "hello")
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    if meta is not None:
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
