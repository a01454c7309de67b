"""Tornado handlers: they translate between HTTP and the kernel, and decide nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from tornado.httputil import HTTPServerRequest, split_host_and_port
from tornado.routing import PathMatches, Rule, URLSpec
from tornado.web import RequestHandler

from mcp_tornado.http1.target import to_origin_form
from mcp_tornado.web.base import UnknownRoute
from mcp_tornado.web.mcp import MCPHandler
from mcp_tornado.web.operations import HealthHandler, MetricsHandler, ReadyHandler
from mcp_tornado.web.send_receive import AbortHandler, ReceiveHandler, SendHandler
from mcp_tornado.web.services import SERVICES_KEY, ActiveRequests, Services
from mcp_tornado.web.session import SessionHandler
from mcp_tornado.web.validation import SessionValidationMixin

__all__ = [
    "SERVICES_KEY",
    "ActiveRequests",
    "HandlerRule",
    "Services",
    "SessionValidationMixin",
    "UnknownRoute",
    "bind_services",
    "routes",
]


HandlerRule = Rule | tuple[str, type[RequestHandler]] | tuple[str, type[RequestHandler], Mapping[str, Any]]
"""A route of the user, in a form that Tornado accepts."""


class _Path(PathMatches):
    """Matches a path, also of a request target in absolute form, which Tornado's own server leaves as it is."""

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        if not request.uri.startswith("/"):
            request.uri = to_origin_form(request.uri, request.headers)
            request.path = request.uri.partition("?")[0]
            request.host = request.headers.get("Host", request.host)
            request.host_name = split_host_and_port(request.host.lower())[0]
        return super().match(request)


def bind_services(rule: HandlerRule, services: Services) -> Rule:
    """Return a route of the user; its handler gets these services if it checks sessions.

    So it uses the sessions of its own application, in whatever Tornado application it is served.
    """
    if isinstance(rule, tuple):
        rule = URLSpec(*rule)  # pyright: ignore[reportArgumentType]
    if not isinstance(rule, URLSpec) or not issubclass(rule.handler_class, SessionValidationMixin):
        return rule
    regex = cast(Any, rule).regex
    return URLSpec(regex, rule.handler_class, {**(rule.kwargs or {}), SERVICES_KEY: services}, rule.name)


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
    specs = [URLSpec(f"{re.escape(route)}/?", handler, {"services": services}) for route, handler in handlers]
    for spec in specs:
        spec.matcher = _Path(spec.regex)  # pyright: ignore[reportUnknownMemberType]
    return specs
