"""An `MCPServer` with an HTTP route of its own."""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

from typing import Any

from mcp.server.mcpserver import MCPServer
from starlette.responses import PlainTextResponse

server = MCPServer("routed")


@server.custom_route("/custom/health", methods=["GET"])
async def health(request: Any) -> PlainTextResponse:
    return PlainTextResponse("fine")
