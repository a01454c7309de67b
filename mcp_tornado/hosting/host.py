"""Finding the SDK server inside the object that the user wrote."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider
from starlette.routing import Route

from mcp_tornado.hosting.authentication import (
    NotServable,
    check_application,
    check_method,
    refuse_authentication,
)
from mcp_tornado.hosting.fastmcp import check_fastmcp, custom_routes, is_fastmcp, low_level_server
from mcp_tornado.hosting.tool_errors import show_errors_of_mcpserver

_TRACING: Final = "OpenTelemetryMiddleware"
_APPLICATION_METHOD: Final = "streamable_http_app"


@dataclass(frozen=True, slots=True)
class HostedServer:
    """A server object, ready to be served."""

    server: Server[Any]
    unserved_routes: tuple[str, ...] = ()
    """The paths of the server's custom Starlette routes. They belong to its own HTTP application, which is not run."""


def host(candidate: object) -> HostedServer:
    """Return the server to serve: a low-level `Server`, or the one inside an SDK `MCPServer` or a FastMCP server.

    Raises:
        NotServable: The object is something else; or it asks for authentication, or may do so, which is not supported
            yet. Such a server is refused, because it must never be served without its authentication.
    """
    if isinstance(candidate, Server):
        low_level = cast(Server[Any], candidate)
        check_method(low_level, Server, _APPLICATION_METHOD)
        return HostedServer(low_level)
    if isinstance(candidate, MCPServer):
        server = cast(MCPServer[Any], candidate)
        if server.settings.auth is not None:
            raise refuse_authentication(server.name)
        check_method(server, MCPServer, _APPLICATION_METHOD)
        # The documented way to the low-level server: build the HTTP app, ask its session manager.
        app = server.streamable_http_app()
        check_application(app, server.session_manager.app, server)
        endpoint = "/mcp"
        unserved = tuple(route.path for route in app.routes if isinstance(route, Route) and route.path != endpoint)
        show_errors_of_mcpserver(server)
        return HostedServer(server.session_manager.app, unserved)
    if is_fastmcp(candidate):
        check_fastmcp(candidate)
        return HostedServer(low_level_server(candidate), custom_routes(candidate))
    raise NotServable(
        f"a {type(candidate).__module__}.{type(candidate).__qualname__} cannot be served: give an MCPServer or a "
        "low-level Server of the official SDK (mcp 2.3 or newer), or a FastMCP server (fastmcp 4.1 or newer). Call a "
        "function that returns a server, and give its result"
    )


@contextmanager
def without_idle_tracing(server: Server[Any]) -> Generator[None]:
    """Remove the SDK's tracing middleware if no OpenTelemetry SDK is configured to receive its spans.

    The middleware costs time in every call, even if nothing receives the spans. The SDK documents `Server.middleware`
    as the place to opt out. On exit the middleware is restored.
    """
    if not isinstance(get_tracer_provider(), ProxyTracerProvider):
        yield
        return
    before = list(server.middleware)
    server.middleware[:] = [middleware for middleware in before if type(middleware).__name__ != _TRACING]
    try:
        yield
    finally:
        server.middleware[:] = before
