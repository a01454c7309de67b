"""The user's server object: the official SDK's or FastMCP's, its request context and its HTTP request."""

from mcp_tornado.hosting.authentication import NotServable, check_applications
from mcp_tornado.hosting.host import HostedServer, host
from mcp_tornado.hosting.offers import Offers, count_offers
from mcp_tornado.hosting.request import InboundRequest
from mcp_tornado.hosting.user_code import UserCodeFailed

__all__ = [
    "HostedServer",
    "InboundRequest",
    "NotServable",
    "Offers",
    "UserCodeFailed",
    "check_applications",
    "count_offers",
    "host",
]
