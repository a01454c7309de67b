"""Finding the SDK server inside the object that the user wrote."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fastmcp import FastMCP
from fastmcp.server.auth import StaticTokenVerifier
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mcp_tornado import NotServable
from mcp_tornado.hosting import host


class TokenVerifier:
    async def verify_token(self, token: str) -> AccessToken | None:
        return None


def test_low_level_server_is_hosted_unchanged():
    server = Server("low")
    hosted = host(server)
    assert hosted.server is server
    assert hosted.unserved_routes == ()


@pytest.mark.parametrize("server_class", [MCPServer, FastMCP])
def test_high_level_server_is_hosted_with_its_tools(server_class):
    server = server_class("high")

    @server.tool()
    def echo(text: str) -> str:
        return text

    hosted = host(server)
    assert isinstance(hosted.server, Server)
    assert hosted.server.name == "high"
    assert hosted.server.get_request_handler("tools/call") is not None
    assert hosted.unserved_routes == ()


def test_custom_routes_are_listed():
    server = MCPServer("high")

    @server.custom_route("/health", methods=["GET"])
    async def health(request: Request) -> Response:
        return PlainTextResponse("ok")

    @server.custom_route("/mcp/extra", methods=["POST"])
    async def extra(request: Request) -> Response:
        return PlainTextResponse("ok")

    assert host(server).unserved_routes == ("/health", "/mcp/extra")


def test_server_that_asks_for_authentication_is_refused():
    server = MCPServer(
        "guarded",
        auth=AuthSettings(
            issuer_url="https://auth.example.com",
            resource_server_url="https://mcp.example.com/mcp",
            validate_token_resource=True,
        ),
        token_verifier=TokenVerifier(),
    )
    with pytest.raises(NotServable, match="authentication") as raised:
        host(server)
    assert "guarded" in str(raised.value)


def test_fastmcp_server_that_is_hosted_again_is_not_changed_again():
    server = FastMCP("fast")
    before = list(host(server).server.middleware)
    assert host(server).server.middleware == before


def test_custom_routes_of_a_fastmcp_server_and_of_mounted_servers_are_listed():
    server, mounted = FastMCP("fast"), FastMCP("mounted")
    for path, owner in {"/health": server, "/inner": mounted}.items():

        @owner.custom_route(path, methods=["GET"])
        async def health(request: Request) -> Response:
            return PlainTextResponse("ok")

    server.mount(mounted)
    assert host(server).unserved_routes == ("/health", "/inner")


def test_fastmcp_server_that_asks_for_authentication_is_refused():
    server = FastMCP("guarded", auth=StaticTokenVerifier(tokens={}))
    with pytest.raises(NotServable, match="authentication") as raised:
        host(server)
    assert "guarded" in str(raised.value)


def test_fastmcp_is_not_imported_without_a_fastmcp_server():
    code = (
        "import sys, mcp_tornado, mcp_tornado.demo\n"
        "mcp_tornado.create_app(mcp_tornado.demo.server)\n"
        "print('fastmcp' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "False\n"


@pytest.mark.parametrize("candidate", [None, 1, "pkg:server", object(), MCPServer, Server, lambda: None, {}, FastMCP])
def test_other_object_is_refused_with_the_name_of_its_type(candidate):
    with pytest.raises(NotServable) as raised:
        host(candidate)
    assert type(candidate).__qualname__ in str(raised.value)
    assert "MCPServer" in str(raised.value)
