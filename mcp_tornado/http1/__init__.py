"""HTTP/1.1 on asyncio and httptools, under any Tornado application."""

from mcp_tornado.http1.server import Server

__all__ = ["Server"]
