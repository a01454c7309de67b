"""Servers whose own HTTP application has, or may have, authentication are refused; others are not."""

from __future__ import annotations

import subprocess
from types import MethodType

import pytest
import uvicorn
from fastmcp import FastMCP
from fastmcp.server.auth import StaticTokenVerifier
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount

from mcp_tornado import NotServable, create_app
from mcp_tornado.hosting import check_applications, host


class Verifier:
    async def verify_token(self, token: str) -> AccessToken | None:
        return None


class CheckToken(BaseHTTPMiddleware):
    pass


class WrapWithToken:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        pass


BEARER = Middleware(AuthenticationMiddleware, backend=BearerAuthBackend(Verifier()))
HARMLESS = [
    Middleware(CORSMiddleware, allow_origins=["*"]),
    Middleware(GZipMiddleware),
    Middleware(TrustedHostMiddleware, allowed_hosts=["*"]),
]
SETTINGS = AuthSettings(
    issuer_url="https://issuer.example", resource_server_url="https://me.example/mcp", validate_token_resource=True
)


def set_token_verifier():
    server = MCPServer("guarded")
    server._token_verifier = Verifier()
    return server


def set_auth_settings():
    server = MCPServer("guarded")
    server.settings.auth = SETTINGS
    return server


def set_fastmcp_auth():
    server = FastMCP("guarded")
    server.auth = StaticTokenVerifier(tokens={})
    return server


def override_http_app():
    class Guarded(FastMCP):
        def http_app(self, **options):
            return super().http_app(middleware=[Middleware(CheckToken)], **options)

    return Guarded("guarded")


def override_streamable_http_app():
    class Guarded(MCPServer):
        def streamable_http_app(self, **options):
            app = super().streamable_http_app(**options)
            app.add_middleware(CheckToken)
            return app

    return Guarded("guarded")


def replace_streamable_http_app():
    server = MCPServer("guarded")
    build = server.streamable_http_app
    server.streamable_http_app = MethodType(lambda self, **options: WrapWithToken(build(**options)), server)
    return server


def override_in_a_low_level_server():
    class Guarded(Server):
        def streamable_http_app(self, **options):
            return super().streamable_http_app(**options, token_verifier=Verifier())

    return Guarded("guarded")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (set_token_verifier, ["asks for authentication"]),
        (set_auth_settings, ["asks for authentication"]),
        (set_fastmcp_auth, ["asks for authentication"]),
        (override_http_app, ["overrides http_app()"]),
        (override_streamable_http_app, ["overrides streamable_http_app()"]),
        (replace_streamable_http_app, ["overrides streamable_http_app()"]),
        (override_in_a_low_level_server, ["overrides streamable_http_app()"]),
    ],
)
def test_a_server_that_may_have_authentication_is_refused(make, words):
    server = make()
    for refuse in (host, create_app):
        with pytest.raises(NotServable) as raised:
            refuse(server)
        text = str(raised.value)
        assert [word for word in [*words, "'guarded'", "authentication", "not served"] if word not in text] == [], text


def sdk_application(server, middleware):
    app = server.streamable_http_app()
    for entry in middleware:
        app.add_middleware(entry.cls, *entry.args, **entry.kwargs)
    return app


def fastmcp_application(server, middleware):
    return server.http_app(middleware=list(middleware))


MAKERS = [
    pytest.param(MCPServer, sdk_application, id="sdk"),
    pytest.param(Server, sdk_application, id="low-level"),
    pytest.param(FastMCP, fastmcp_application, id="fastmcp"),
]


@pytest.mark.parametrize(("server_class", "build"), MAKERS)
@pytest.mark.parametrize(
    "guard",
    [
        lambda app, build, server: build(server, [Middleware(CheckToken)]),
        lambda app, build, server: build(server, [BEARER]),
        lambda app, build, server: WrapWithToken(app),
        lambda app, build, server: Starlette(routes=[Mount("/", app)], middleware=[Middleware(CheckToken)]),
        lambda app, build, server: Starlette(routes=[Mount("/", app, middleware=[Middleware(WrapWithToken)])]),
        lambda app, build, server: CORSMiddleware(RequireAuthMiddleware(app, [])),
    ],
    ids=["middleware", "bearer", "wrapper", "outer", "mount", "required"],
)
def test_an_application_of_the_module_with_unknown_middleware_is_refused(server_class, build, guard):
    server = server_class("guarded")
    application = guard(build(server, []), build, server)
    with pytest.raises(NotServable, match="authentication") as raised:
        check_applications([1, None, application], server)
    assert "'guarded'" in str(raised.value)


@pytest.mark.parametrize(("server_class", "build"), MAKERS)
def test_an_application_without_authentication_is_accepted(server_class, build):
    server, other = server_class("open"), server_class("other")
    app = build(server, HARMLESS)
    values = [
        app,
        build(other, [Middleware(CheckToken)]),
        Starlette(routes=[Mount("/", app)], middleware=HARMLESS),
        uvicorn.Config(app),
        server,
        type(server),
        subprocess,
    ]
    check_applications(values, server)
    host(server)
    check_applications(values, server)


def test_an_object_that_is_no_server_has_no_application():
    check_applications([Starlette()], 17)
    check_applications([Starlette()], MCPServer("without an application"))
