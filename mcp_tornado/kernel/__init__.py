"""The one place that knows the SDK: hosting a server object, and running its handlers for HTTP requests."""

from mcp_tornado.kernel.handshake import HANDSHAKE_VERSIONS, STATELESS_VERSIONS, Initialized
from mcp_tornado.kernel.hosting import HostedServer, NotServable, host
from mcp_tornado.kernel.inbound import InboundRequest
from mcp_tornado.kernel.kernel import Kernel
from mcp_tornado.kernel.responses import Answer, SessionExchange
from mcp_tornado.kernel.stateless import StandaloneExchange, envelope_version
from mcp_tornado.kernel.streams import Frame, FrameReader, StreamReader

__all__ = [
    "HANDSHAKE_VERSIONS",
    "STATELESS_VERSIONS",
    "Answer",
    "Frame",
    "FrameReader",
    "HostedServer",
    "InboundRequest",
    "Initialized",
    "Kernel",
    "NotServable",
    "SessionExchange",
    "StandaloneExchange",
    "StreamReader",
    "envelope_version",
    "host",
]
