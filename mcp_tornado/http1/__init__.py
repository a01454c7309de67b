"""An HTTP/1.1 server for Tornado applications, which needs less time per request than Tornado's own.

It serves an unchanged `tornado.web.Application` through Tornado's public interfaces (`httputil.HTTPConnection`,
`HTTPMessageDelegate`), on asyncio's transports and with httptools as the parser. It has no TLS and no upgrades
(WebSockets). `mcp-tornado serve` listens with it; an embedding application listens with Tornado's `HTTPServer`.
"""

from mcp_tornado.http1.limits import BACKLOG_CONNECTIONS
from mcp_tornado.http1.server import Server

__all__ = ["BACKLOG_CONNECTIONS", "Server"]
