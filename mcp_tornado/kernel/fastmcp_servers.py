"""FastMCP's servers, as far as they differ from the SDK's. FastMCP is never imported unless the user has done so."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server

if TYPE_CHECKING:
    from fastmcp import FastMCP

_TRANSPORT: Final = "streamable-http"


def is_fastmcp(candidate: object) -> TypeGuard[FastMCP[Any]]:
    """Say whether an object is a FastMCP server."""
    module = sys.modules.get("fastmcp.server.server")
    return module is not None and isinstance(candidate, module.FastMCP)


def low_level_server(server: FastMCP[Any]) -> Server[Any]:
    """Return the SDK's server inside of a FastMCP server, having it see each message as one that came by HTTP.

    Its lifespan is FastMCP's own, with those of the servers mounted in it.
    """
    # FastMCP has no public way to it.
    low_level: Server[Any] = server._mcp_server  # pyright: ignore[reportPrivateUsage]
    if not any(isinstance(middleware, _CameByHTTP) for middleware in low_level.middleware):
        low_level.middleware.insert(0, _CameByHTTP())
    return low_level


def custom_routes(server: FastMCP[Any]) -> tuple[str, ...]:
    """Return the paths of the routes that a FastMCP server, or one mounted in it, adds to its own HTTP app."""
    routes = server._get_additional_http_routes()  # pyright: ignore[reportPrivateUsage]
    return tuple(getattr(route, "path", str(route)) for route in routes)


class _CameByHTTP:
    """Tells FastMCP of each message, requests of the journal too, that it came by HTTP, and in which request.

    FastMCP learns that from its own HTTP app. Without it, it takes all requests of the stateless era for those of
    one and the same client, as on stdio, and what one client changes reaches the others.

    It is a middleware of the SDK's, and the outermost.
    """

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Handle a message."""
        from fastmcp.server.context import reset_transport, set_transport
        from fastmcp.server.http import set_http_request

        token = set_transport(_TRANSPORT)
        try:
            with set_http_request(ctx.request) if ctx.request is not None else nullcontext():
                return await call_next(ctx)
        finally:
            reset_transport(token)
