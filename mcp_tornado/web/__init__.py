"""Tornado handlers: they translate between HTTP and the kernel, and decide nothing."""

from __future__ import annotations

import re

from tornado.routing import URLSpec
from tornado.web import RequestHandler

from mcp_tornado.web.base import UnknownRoute
from mcp_tornado.web.mcp import MCPHandler
from mcp_tornado.web.operations import HealthHandler, MetricsHandler, ReadyHandler
from mcp_tornado.web.send_receive import AbortHandler, ReceiveHandler, SendHandler
from mcp_tornado.web.services import SERVICES_KEY, ActiveRequests, Services
from mcp_tornado.web.session import SessionHandler
from mcp_tornado.web.validation import SessionValidationMixin

__all__ = ["SERVICES_KEY", "ActiveRequests", "Services", "SessionValidationMixin", "UnknownRoute", "routes"]


def routes(services: Services) -> list[URLSpec]:
    """Return the routes of an application; each matches with and without a trailing slash."""
    path = services.settings.server.path
    handlers: list[tuple[str, type[RequestHandler]]] = [
        (path, MCPHandler),
        ("/healthz", HealthHandler),
        ("/readyz", ReadyHandler),
    ]
    if services.settings.sessions.mode != "off":
        handlers += [
            (f"{path}/session", SessionHandler),
            (f"{path}/send", SendHandler),
            (f"{path}/receive", ReceiveHandler),
            (f"{path}/abort", AbortHandler),
        ]
    if services.settings.metrics.enabled:
        handlers.append(("/metrics", MetricsHandler))
    return [URLSpec(f"{re.escape(route)}/?", handler, {"services": services}) for route, handler in handlers]
