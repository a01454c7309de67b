"""FastMCP servers, as far as they differ from the SDK's. This package imports FastMCP only if the user has done so."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeGuard
from urllib.parse import quote

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server

from mcp_tornado.hosting.authentication import check_application, check_method, refuse_authentication
from mcp_tornado.hosting.fastmcp_state import FastMCPState
from mcp_tornado.hosting.tool_errors import show_errors_of_fastmcp

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from fastmcp.server.providers import Provider

_TRANSPORT: Final = "streamable-http"


def is_fastmcp(candidate: object) -> TypeGuard[FastMCP[Any]]:
    """Return whether an object is a FastMCP server."""
    module = sys.modules.get("fastmcp.server.server")
    return module is not None and isinstance(candidate, module.FastMCP)


def check_fastmcp(server: FastMCP[Any]) -> None:
    """Check that the HTTP application of a FastMCP server adds no authentication.

    Raises:
        NotServable: It does, or may do so.
    """
    from fastmcp import FastMCP

    if server.auth is not None:
        raise refuse_authentication(server.name)
    check_method(server, FastMCP, "http_app")
    check_application(server.http_app(), server._mcp_server, server)  # pyright: ignore[reportPrivateUsage]


def low_level_server(server: FastMCP[Any]) -> Server[Any]:
    """Return the SDK's server inside a FastMCP server, prepared for HTTP requests and for stored sessions.

    From now on FastMCP sees each message as one that arrived over HTTP, and keeps its state for clients in the stored
    sessions. The server's lifespan is FastMCP's own, including the lifespans of the servers mounted in it.
    """
    # FastMCP has no public way to reach it.
    low_level: Server[Any] = server._mcp_server  # pyright: ignore[reportPrivateUsage]
    if not any(isinstance(middleware, _HTTPTransportMiddleware) for middleware in low_level.middleware):
        low_level.middleware.insert(0, _HTTPTransportMiddleware(server))
    # Before the first message: a lifespan may call the server, which would then create a store of its own.
    store_state_in_sessions(server)
    show_errors_of_fastmcp(server)
    return low_level


def custom_routes(server: FastMCP[Any]) -> tuple[str, ...]:
    """Return the paths of the routes that a FastMCP server, or a server mounted in it, adds to its HTTP application."""
    routes = server._get_additional_http_routes()  # pyright: ignore[reportPrivateUsage]
    return tuple(getattr(route, "path", str(route)) for route in routes)


def store_state_in_sessions(server: FastMCP[Any], path: str = "") -> None:
    """Make a server, and the servers that are mounted in it now, keep their state for clients in the stored sessions.

    A server whose author has passed a store keeps using that store.

    Args:
        server: The server.
        path: The position at which the server is mounted: the names of the servers on the path to it. It is the same in
            every process. Servers without a name of their own, and servers with equal names, are numbered in the order
            in which they were mounted.
    """
    # FastMCP accepts a store in the constructor; without one it creates its own when it first needs it.
    if server._state_storage is None:  # pyright: ignore[reportPrivateUsage]
        server._state_storage = FastMCPState(path)  # pyright: ignore[reportPrivateUsage]
    times: Counter[str] = Counter()
    for mounted in _mounted(server.providers):
        name = "" if _has_generated_name(mounted) else quote(mounted.name, safe="")
        times[name] += 1
        store_state_in_sessions(mounted, f"{path}/{name}#{times[name]}")


def _mounted(providers: Iterable[Provider]) -> Iterator[FastMCP[Any]]:
    from fastmcp.server.providers import AggregateProvider, FastMCPProvider
    from fastmcp.server.providers.wrapped_provider import _WrappedProvider  # pyright: ignore[reportPrivateUsage]

    for provider in providers:
        while isinstance(provider, _WrappedProvider):
            provider = provider._inner  # pyright: ignore[reportPrivateUsage]
        if isinstance(provider, FastMCPProvider):
            yield provider.server
        elif isinstance(provider, AggregateProvider):
            yield from _mounted(provider.providers)


def _has_generated_name(server: FastMCP[Any]) -> bool:
    return re.fullmatch(rf"{type(server).__name__}-[0-9a-f]{{4}}", server.name) is not None


class _HTTPTransportMiddleware:
    """Declares to FastMCP that each message, also a repeated journal entry, arrived over HTTP, and in which request.

    FastMCP's own HTTP application does the same. Without this middleware FastMCP would treat all requests of the
    stateless era as requests of one client, as on stdio, and a change by one client would affect the others.

    This is the outermost middleware of the SDK server.
    """

    def __init__(self, server: FastMCP[Any]) -> None:
        self._server = server

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Handle a message."""
        from fastmcp.server.context import reset_transport, set_transport
        from fastmcp.server.http import set_http_request

        store_state_in_sessions(self._server)  # for each message: a server can be mounted at any time
        token = set_transport(_TRANSPORT)
        try:
            with set_http_request(ctx.request) if ctx.request is not None else nullcontext():
                return await call_next(ctx)
        finally:
            reset_transport(token)
