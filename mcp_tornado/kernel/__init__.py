"""Handling of MCP messages: the handshake, the stateless era, calls, connections, routing and subscriptions."""

from mcp_tornado.kernel.handshake import HANDSHAKE_VERSIONS, STATELESS_VERSIONS, HandshakeResult
from mcp_tornado.kernel.kernel import Kernel
from mcp_tornado.kernel.stateless import StatelessExchange, envelope_version

__all__ = [
    "HANDSHAKE_VERSIONS",
    "STATELESS_VERSIONS",
    "HandshakeResult",
    "Kernel",
    "StatelessExchange",
    "envelope_version",
]
