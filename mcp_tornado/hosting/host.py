"""From the object that a user wrote to the SDK server that is served."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider
from starlette.routing import Route

from mcp_tornado.hosting.fastmcp import custom_routes, is_fastmcp, low_level_server

_TRACING: Final = "OpenTelemetryMiddleware"


class NotServable(Exception):
    """The object cannot be served; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class HostedServer:
    """A server object, ready to be served."""

    server: Server[Any]
    unserved_routes: tuple[str, ...] = ()
    """Paths of custom Starlette routes: they belong to the server's own HTTP app, which is not run."""


def host(candidate: object) -> HostedServer:
    """Return the low-level server of an SDK `MCPServer` or of a FastMCP server, or a low-level `Server` itself.

    Raises:
        NotServable: The object is something else, or asks for authentication, which is not served yet: it must
            never run open.
    """
    if isinstance(candidate, Server):
        return HostedServer(candidate)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(candidate, MCPServer):
        server = cast(MCPServer[Any], candidate)
        if server.settings.auth is not None:
            raise _asks_for_authentication(server.name)
        # The documented way to the low-level server: build the HTTP app, ask its session manager.
        app = server.streamable_http_app()
        endpoint = "/mcp"
        unserved = tuple(route.path for route in app.routes if isinstance(route, Route) and route.path != endpoint)
        return HostedServer(server.session_manager.app, unserved)
    if is_fastmcp(candidate):
        if candidate.auth is not None:
            raise _asks_for_authentication(candidate.name)
        return HostedServer(low_level_server(candidate), custom_routes(candidate))
    raise NotServable(
        f"a {type(candidate).__module__}.{type(candidate).__qualname__} cannot be served: give an MCPServer or a "
        "low-level Server of the official SDK (mcp 2.3 or newer), or a FastMCP server (fastmcp 4.1 or newer)"
    )


def _asks_for_authentication(name: str) -> NotServable:
    return NotServable(
        f"the server {name!r} asks for authentication (auth, token_verifier), which mcp-tornado does not have yet; "
        "it is not served rather than served open. Remove auth from the server, or authenticate in front of it"
    )


@contextmanager
def without_idle_tracing(server: Server[Any]) -> Generator[None]:
    """Leave the SDK's tracing middleware out, where no OpenTelemetry SDK is set up that would get its spans.

    It costs every call something even then. `Server.middleware` is where the SDK has one opt out of it.
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
