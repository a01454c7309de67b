"""The user's server object: the official SDK's or FastMCP's, its request context and its HTTP request."""

from mcp_tornado.hosting.host import HostedServer, NotServable, host
from mcp_tornado.hosting.request import InboundRequest

__all__ = ["HostedServer", "InboundRequest", "NotServable", "host"]
