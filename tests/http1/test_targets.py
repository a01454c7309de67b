"""Request targets in absolute form (RFC 9112, section 3.2.2), on both servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from mcp_tornado import create_app
from mcp_tornado.http1 import Server
from tests.http1.client import Client, Response

pytestmark = pytest.mark.anyio


class Where(RequestHandler):
    def get(self) -> None:
        self.write(f"{self.request.host} {self.request.uri} {self.get_query_argument('x', '')}")


@asynccontextmanager
async def serving(kind: str, *, is_mounted: bool = False) -> AsyncGenerator[int]:
    """Serve an application on mcp-tornado's own server or on Tornado's, and yield the port."""
    own = create_app(MCPServer("x"), handlers=[(r"/where", Where)])
    app: Any = own
    if is_mounted:
        app = Application()
        app.add_handlers(".*", list(own.routes))
    sock, port = bind_unused_port()
    server: Any = Server(app) if kind == "http1" else HTTPServer(app)
    async with own.lifespan():
        if kind == "http1":
            await server.listen([sock])
        else:
            server.add_socket(sock)
        try:
            yield port
        finally:
            server.stop()
            await server.close_all_connections()


async def request(port: int, target: str, *hosts: str, method: str = "GET") -> Response:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    lines = [f"{method} {target} HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
    client.send("\r\n".join(lines))
    try:
        return await client.read_response()
    finally:
        await client.close()


@pytest.mark.parametrize("is_mounted", [False, True])
@pytest.mark.parametrize("kind", ["http1", "tornado"])
async def test_an_absolute_target_is_served_and_its_authority_is_checked_as_the_host(
    kind: str, is_mounted: bool
) -> None:
    async with serving(kind, is_mounted=is_mounted) as port:
        local = f"http://127.0.0.1:{port}"
        for scheme in ("http", "HTTP", "https"):
            made = await request(port, f"{scheme}://127.0.0.1:{port}/mcp/session", "localhost", method="POST")
            assert made.status == 201
        # The Host header does not count, whatever it is.
        assert (await request(port, f"{local}/mcp/session/", "evil.example", method="POST")).status == 201
        refused = await request(port, "http://evil.example/mcp/session", "localhost", method="POST")
        assert refused.status == 421
        assert (await request(port, f"http://evil.example:{port}/metrics", "localhost")).status == 421
        assert (await request(port, f"{local}/healthz?x=1", "localhost")).status == 200
        where = await request(port, f"{local}/where?x=1%20y&z", "elsewhere.example")
        assert (where.status, where.body.decode()) == (200, f"127.0.0.1:{port} /where?x=1%20y&z 1 y")


@pytest.mark.parametrize("kind", ["http1", "tornado"])
async def test_other_absolute_targets_are_not_served(kind: str) -> None:
    async with serving(kind) as port:
        for target in ("ftp://127.0.0.1/mcp", "http://user@127.0.0.1/mcp", "http:///mcp", "http://127.0.0.1", "*"):
            refused = await request(port, target, "localhost")
            assert refused.status in (400, 404), target
        several = await request(port, f"http://127.0.0.1:{port}/mcp/session", "localhost", "localhost", method="POST")
        assert several.status in (400, 421)
