"""Authentication that the user's server has in its own HTTP application, which mcp-tornado does not run.

A server with such authentication must never be served without it. What may be authentication is therefore refused:
middleware that is not known to be something else, and methods that build the application in another way.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import BaseRoute

_HARMLESS: Final = frozenset({CORSMiddleware, GZipMiddleware, TrustedHostMiddleware})
_FRAMEWORKS: Final = ("mcp.", "fastmcp.")
_AUTHENTICATION: Final = ("mcp.server.auth.", "fastmcp.server.auth.")
_MAX_DEPTH: Final = 20
"""How many applications and middleware may lie around an endpoint; more are not searched."""


class NotServable(Exception):
    """The object cannot be served; the message says why and what to do."""


def refuse_authentication(name: str) -> NotServable:
    """Return the error for a server that asks for authentication."""
    return NotServable(
        f"the server {name!r} asks for authentication (auth, token_verifier), which mcp-tornado does not support yet. "
        "It is not served, because anybody could use it without authentication. Remove auth from the server, or "
        "authenticate in a proxy in front of it"
    )


def check_method(server: Any, base: type, method: str) -> None:
    """Check that the method that builds the HTTP application is the framework's own.

    Raises:
        NotServable: The method is overridden; it may add authentication.
    """
    if inspect.getattr_static(server, method) is not inspect.getattr_static(base, method):
        raise NotServable(
            f"the server {server.name!r} overrides {method}(), which may add authentication. mcp-tornado does not run "
            "the server's own HTTP application, so the server is not served: anybody could use it without that "
            "authentication. Serve a server without the override, and authenticate in a proxy in front of it"
        )


def check_application(application: object, server: Server[Any], owner: object) -> None:
    """Check the middleware of an application, if it serves the server.

    Args:
        application: An ASGI application, or anything else.
        server: The low-level server.
        owner: The user's server object.

    Raises:
        NotServable: The application has middleware that is, or may be, authentication.
    """
    name = cast(Any, owner).name
    for layer in _layers(application, server, owner, _MAX_DEPTH) or ():
        path = f"{layer.__module__}.{getattr(layer, '__qualname__', layer)}"
        if path.startswith(_AUTHENTICATION):
            raise refuse_authentication(name)
        if layer not in _HARMLESS and not path.startswith(_FRAMEWORKS):
            raise NotServable(
                f"the HTTP application of the server {name!r} has the middleware {path}, which may be authentication. "
                "mcp-tornado does not run that application, so the server is not served: anybody could use it without "
                "that middleware. Remove the application or its middleware, and authenticate in a proxy in front of "
                "mcp-tornado"
            )


def check_applications(candidates: Iterable[object], owner: object) -> None:
    """Check the applications that the user's module has built for the server that it serves; see `check_application`.

    Args:
        candidates: The values of the module.
        owner: The user's server object.

    Raises:
        NotServable: An application has middleware that is, or may be, authentication.
    """
    server = _low_level_server(owner)
    if server is not None:
        for candidate in candidates:
            check_application(candidate, server, owner)


def _low_level_server(owner: Any) -> Server[Any] | None:
    """Return the server that an application of the owner serves; `None` if no application can exist."""
    if not isinstance(owner, MCPServer | Server):
        return getattr(owner, "_mcp_server", None)  # of FastMCP
    with suppress(RuntimeError):  # no application was built
        return owner.session_manager.app
    return None


def _layers(application: object, server: Server[Any], owner: object, depth: int) -> list[type] | None:
    """Return the classes of the middleware between an application and the server; `None` if it does not serve it.

    Middleware is in a list of Starlette's applications, or an object that holds the application that it wraps in the
    attribute `app`. Authentication may also be the endpoint itself.
    """
    if depth == 0 or isinstance(application, type | MCPServer | Server):
        return None
    values: dict[str, Any] = getattr(application, "__dict__", {})
    if getattr(values.get("session_manager"), "app", None) is server:
        return []
    if isinstance(application, Starlette):
        own: list[type] = [cast(type, middleware.cls) for middleware in application.user_middleware]
        if getattr(application.state, "fastmcp_server", None) is owner:
            return own + _protection(application)
        inner = (_layers(route, server, owner, depth - 1) for route in application.routes)
        return next((own + layers for layers in inner if layers is not None), None)
    if "app" not in values:
        return None
    layers = _layers(values["app"], server, owner, depth - 1)
    if layers is None:
        return None
    wraps = callable(application) and not isinstance(application, BaseRoute)  # `uvicorn.Config` is not callable
    return [type(application), *layers] if wraps else layers


def _protection(application: Starlette) -> list[type]:
    """Return the classes of the endpoints that ask for authentication; FastMCP's endpoint knows its server later."""
    endpoints: list[object] = [getattr(route, "endpoint", None) for route in application.routes]
    return [type(endpoint) for endpoint in endpoints if type(endpoint).__module__.startswith(_AUTHENTICATION)]
