"""The server that is served by both transports, with one minimal tool."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette

server = MCPServer("add", log_level="WARNING")


@server.tool()
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def sdk_app() -> Starlette:
    """Return the server on the transport of the SDK, with JSON answers."""
    return server.streamable_http_app(json_response=True)
