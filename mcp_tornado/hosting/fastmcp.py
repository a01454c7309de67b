"""FastMCP's servers, as far as they differ from the SDK's. FastMCP is never imported unless the user has done so."""

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

from mcp_tornado.hosting.fastmcp_state import FastMCPState

if TYPE_CHECKING:
    from fastmcp import FastMCP
    from fastmcp.server.providers import Provider

_TRANSPORT: Final = "streamable-http"


def is_fastmcp(candidate: object) -> TypeGuard[FastMCP[Any]]:
    """Say whether an object is a FastMCP server."""
    module = sys.modules.get("fastmcp.server.server")
    return module is not None and isinstance(candidate, module.FastMCP)


def low_level_server(server: FastMCP[Any]) -> Server[Any]:
    """Return the SDK's server inside of a FastMCP server, having it see each message as one that came by HTTP to us.

    What the FastMCP server keeps for clients is kept with our sessions from now on. Its lifespan is FastMCP's own, with
    those of the servers mounted in it.
    """
    # FastMCP has no public way to it.
    low_level: Server[Any] = server._mcp_server  # pyright: ignore[reportPrivateUsage]
    if not any(isinstance(middleware, _CameByHTTP) for middleware in low_level.middleware):
        low_level.middleware.insert(0, _CameByHTTP(server))
    keep_state_with_sessions(server)  # now too: a lifespan may call a server, which then makes a store of its own
    return low_level


def custom_routes(server: FastMCP[Any]) -> tuple[str, ...]:
    """Return the paths of the routes that a FastMCP server, or one mounted in it, adds to its own HTTP app."""
    routes = server._get_additional_http_routes()  # pyright: ignore[reportPrivateUsage]
    return tuple(getattr(route, "path", str(route)) for route in routes)


def keep_state_with_sessions(server: FastMCP[Any], path: str = "") -> None:
    """Let a server, and those mounted in it by now, keep what it keeps for clients with our sessions.

    A server that was given a store by its author keeps that.

    Args:
        server: The server.
        path: Where it is mounted, in every process the same: the name of each server on the way to it. Servers without
            a name of their author's, and those of one name, are told apart by the order in which they were mounted.
    """
    # FastMCP takes a store when a server is made, and makes one itself where it first needs it.
    if server._state_storage is None:  # pyright: ignore[reportPrivateUsage]
        server._state_storage = FastMCPState(path)  # pyright: ignore[reportPrivateUsage]
    times: Counter[str] = Counter()
    for mounted in _mounted(server.providers):
        name = "" if _has_generated_name(mounted) else quote(mounted.name, safe="")
        times[name] += 1
        keep_state_with_sessions(mounted, f"{path}/{name}#{times[name]}")


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


class _CameByHTTP:
    """Tells FastMCP of each message, requests of the journal too, that it came by HTTP, and in which request.

    FastMCP learns that from its own HTTP app. Without it, it takes all requests of the stateless era for those of
    one and the same client, as on stdio, and what one client changes reaches the others.

    It is a middleware of the SDK's, and the outermost.
    """

    def __init__(self, server: FastMCP[Any]) -> None:
        self._server = server

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Handle a message."""
        from fastmcp.server.context import reset_transport, set_transport
        from fastmcp.server.http import set_http_request

        keep_state_with_sessions(self._server)  # with each message: servers can be mounted at any time
        token = set_transport(_TRANSPORT)
        try:
            with set_http_request(ctx.request) if ctx.request is not None else nullcontext():
                return await call_next(ctx)
        finally:
            reset_transport(token)
