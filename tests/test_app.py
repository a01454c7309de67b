"""`create_app`: what it accepts and refuses, and the lifespan of the application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from mcp.server.auth.settings import AuthSettings
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from structlog.testing import capture_logs
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from mcp_tornado import ConfigError, MCPApplication, NotServable, SessionValidationMixin, StorePluginError, create_app

pytestmark = pytest.mark.anyio


class Plain(RequestHandler):
    def initialize(self, text: str = "plain") -> None:
        self.text = text

    def get(self) -> None:
        self.write(self.text)


class Checked(SessionValidationMixin, RequestHandler):
    def get(self) -> None:
        self.write(self.session.key)


async def get(app: Application, path: str, *headers: str) -> tuple[int, bytes]:
    sock, port = bind_unused_port()
    http = HTTPServer(app)
    http.add_socket(sock)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body
    finally:
        writer.close()
        await writer.wait_closed()
        http.stop()
        await http.close_all_connections()


async def test_create_app_returns_a_tornado_application():
    app = create_app(MCPServer("x"))
    assert isinstance(app, MCPApplication)
    assert isinstance(app, Application)


async def test_create_app_reads_no_files_and_no_environment(tmp_path, monkeypatch):
    (tmp_path / "settings.toml").write_text('[default.server]\npath = "/from-a-file"\nnonsense = 1\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MCP_TORNADO_SERVER__PATH", "/from-a-variable")
    monkeypatch.setenv("MCP_TORNADO_NONSENSE__X", "1")
    app = create_app(MCPServer("x"))
    async with app.lifespan():
        assert (await get(app, "/mcp"))[0] == 400
        assert (await get(app, "/from-a-file"))[0] == 404
        assert (await get(app, "/from-a-variable"))[0] == 404


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({"server": {"prot": 1}}, ["prot", "port"]),
        ({"servre": {}}, ["servre", "server"]),
        ({"server": {"path": "mcp"}}, ["server.path"]),
        ({"server": {"max_body_bytes": 0}}, ["server.max_body_bytes"]),
        ({"sessions": {"mode": "maybe"}}, ["sessions.mode", "optional"]),
        ({"sessions": {"idle_timeout_seconds": -1}}, ["sessions.idle_timeout_seconds"]),
    ],
)
async def test_an_invalid_setting_is_named_in_the_error(sections, names):
    with pytest.raises(ConfigError) as raised:
        create_app(MCPServer("x"), **sections)
    for name in names:
        assert name in str(raised.value)


async def test_an_unknown_store_is_named_in_the_error_without_its_password():
    with pytest.raises(StorePluginError, match=r"nosuch://.*memory") as raised:
        create_app(MCPServer("x"), sessions={"store": "nosuch://user:password@host"})
    assert "password" not in str(raised.value)


@pytest.mark.parametrize("thing", [object(), "mcp_tornado.demo:server", None])
async def test_an_object_that_is_no_server_is_refused(thing):
    with pytest.raises(NotServable):
        create_app(thing)


async def test_a_server_with_authentication_is_refused():
    class Verifier:
        async def verify_token(self, token: str) -> None:
            return None

    auth = AuthSettings(
        issuer_url="https://a.example", resource_server_url="https://b.example/mcp", validate_token_resource=True
    )
    with pytest.raises(NotServable):
        create_app(MCPServer("x", auth=auth, token_verifier=Verifier()))


async def test_the_server_is_positional_only():
    with pytest.raises(TypeError):
        create_app(server=MCPServer("x"))  # "server" is a section of the settings


async def test_handlers_of_the_user_are_served_beside_those_of_mcp_tornado():
    app = create_app(MCPServer("x"), handlers=[(r"/plain", Plain), (r"/given", Plain, {"text": "given"})])
    async with app.lifespan():
        assert await get(app, "/plain") == (200, b"plain")
        assert await get(app, "/given") == (200, b"given")
        assert (await get(app, "/healthz"))[0] == 200
        assert (await get(app, "/nowhere"))[0] == 404
        assert b"ROUTE_NOT_FOUND" in (await get(app, "/nowhere"))[1]


async def test_the_lifespan_enters_and_leaves_the_lifespan_of_the_server():
    calls: list[str] = []

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
        calls.append("entered")
        yield {}
        calls.append("left")

    app = create_app(Server("x", lifespan=lifespan))
    assert calls == []
    async with app.lifespan():
        assert calls == ["entered"]
        assert (await get(app, "/readyz"))[0] == 200
    assert calls == ["entered", "left"]


NOT_RUNNING = {
    "jsonrpc": "2.0",
    "id": None,
    "error": {"code": -32603, "message": "not running", "data": {"code": "INTERNAL_ERROR"}},
}


async def test_an_application_outside_of_its_lifespan_answers_that_it_is_not_running():
    app = create_app(MCPServer("x"), handlers=[(r"/checked", Checked)])
    paths = ["/healthz", "/readyz", "/metrics", "/mcp", "/mcp/session", "/mcp/receive", "/nowhere", "/checked"]

    async def check_each() -> None:
        for path in paths:
            with capture_logs() as logs:
                status, body = await get(app, path, "Mcp-Session-Id: a")
            assert (path, status, json.loads(body)) == (path, 500, NOT_RUNNING)
            (entry,) = [line for line in logs if line["event"] == "request.not_running"]
            assert "app.lifespan()" in entry["hint"]

    await check_each()
    async with app.lifespan():
        assert (await get(app, "/readyz"))[0] == 200
        assert (await get(app, "/checked"))[0] == 400
    await check_each()


async def test_a_lifespan_that_fails_leaves_nothing_open():
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, Any]]:
        raise RuntimeError("no database")
        yield {}

    app = create_app(Server("x", lifespan=lifespan))
    before = asyncio.all_tasks()
    with pytest.raises(RuntimeError, match="no database"):
        async with app.lifespan():
            pass
    assert asyncio.all_tasks() == before
    assert json.loads((await get(app, "/readyz"))[1]) == NOT_RUNNING


async def test_the_end_of_the_lifespan_leaves_no_task_behind():
    app = create_app(MCPServer("x"))
    before = asyncio.all_tasks()
    async with app.lifespan():
        await get(app, "/readyz")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_two_applications_in_one_process_share_nothing():
    first = create_app(MCPServer("x"), handlers=[(r"/only", Plain)])
    second = create_app(MCPServer("y"), server={"path": "/other"})
    async with first.lifespan(), second.lifespan():
        assert (await get(first, "/mcp"))[0] == 400
        assert (await get(second, "/mcp"))[0] == 404
        assert (await get(second, "/other"))[0] == 400
        _, metrics = await get(second, "/metrics")
        assert b'code="404",handler="UnknownRoute",method="GET"} 1.0' in metrics
        assert b"MCPHandler" in metrics
        _, metrics = await get(first, "/metrics")
        assert b"UnknownRoute" not in metrics


async def test_custom_starlette_routes_cause_a_warning():
    server = MCPServer("x")

    @server.custom_route("/extra", methods=["GET"])
    async def extra(request: Request) -> Response:
        return PlainTextResponse("ok")

    with structlog.testing.capture_logs() as logged:
        app = create_app(server)
    assert [event["path"] for event in logged if event["event"] == "route.unserved"] == ["/extra"]
    async with app.lifespan():
        assert (await get(app, "/extra"))[0] == 404
