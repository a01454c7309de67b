"""Helpers for the tests of state."""

from __future__ import annotations

from tornado.httputil import HTTPHeaders

from mcp_tornado.hosting import InboundRequest
from mcp_tornado.sessions import ClientInfo

INBOUND = InboundRequest(
    method="POST",
    scheme="http",
    host="127.0.0.1",
    path="/mcp",
    query="",
    raw_headers=HTTPHeaders({"User-Agent": "a browser"}),
    remote_addr="192.0.2.1",
)
"""A request without a session."""


async def new_session(manager, principal=None):
    return await manager.create(
        client=ClientInfo(name="a client"), protocol_version="2025-11-25", client_params={}, principal=principal
    )


def count(data):
    """Add 1 to a counter in the state."""
    data["n"] = data.get("n", 0) + 1
