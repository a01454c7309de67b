"""The routes in an application of the user's: XSRF protection, and several MCP servers in one process."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from tornado.web import Application, HTTPError, RequestHandler, URLSpec

from mcp_tornado import SessionValidationMixin, create_app
from mcp_tornado.web.base import BaseHandler
from tests.web.lifespan import run_lifespan
from tests.web.messages import PING, initialize_request

pytestmark = pytest.mark.gen_test(timeout=60)


class Upload(SessionValidationMixin, RequestHandler):
    def initialize(self, name: str = "") -> None:
        self.name = name

    def get(self) -> None:
        self.write({"key": self.session.key[:8], "name": self.name})

    def post(self) -> None:
        self.write({"key": self.session.key[:8]})


def mount(existing: Application, *applications: tuple[str, Any]) -> Application:
    """Mount applications below host patterns, and let `existing` have their lifespans."""
    for pattern, application in applications:
        existing.add_handlers(pattern, list(application.routes))

    @asynccontextmanager
    async def lifespan():
        async with AsyncExitStack() as stack:
            for _, application in applications:
                await stack.enter_async_context(application.lifespan())
            yield

    existing.lifespan = lifespan
    return existing


class TestWithXSRFProtection:
    """Tornado's own protection of forms is on, with both of its methods."""

    @pytest.fixture
    def app(self, io_loop: Any, server: object) -> Any:
        own = create_app(server, handlers=[(r"/upload", Upload)])
        existing = Application(xsrf_cookies=True, cross_origin_protection=True)
        yield from run_lifespan(io_loop, mount(existing, (".*", own)))

    async def test_the_routes_are_exempt(self, client):
        origin = {"Origin": "http://localhost:5173", "Sec_Fetch_Site": "cross-site"}
        for headers in ({}, origin):
            made = await client.fetch("POST", "/mcp", json_body=initialize_request(), **headers)
            assert made.status == 200, made.body
            for method, path, body, status in (
                ("POST", "/mcp", PING, 200),
                ("POST", "/mcp/send", PING, 202),
                ("DELETE", "/mcp/session", ..., 204),
                ("POST", "/mcp/session", ..., 201),
            ):
                answer = await client.fetch(method, path, json_body=body, session=made.session, **headers)
                assert answer.status == status, (path, answer.body)
        evil = {"Origin": "http://evil.example", "Sec_Fetch_Site": "cross-site"}
        (await client.fetch("POST", "/mcp", json_body=PING, **evil)).assert_error("FORBIDDEN_ORIGIN")

    async def test_handlers_of_the_user_are_not_exempt(self, client):
        session = await client.create_session()
        assert (await client.fetch("GET", "/upload", session=session)).status == 200
        assert (await client.fetch("POST", "/upload", session=session)).status == 403


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_REQUEST"),
        (401, "UNAUTHORIZED"),
        (403, "INVALID_REQUEST"),
        (404, "ROUTE_NOT_FOUND"),
        (409, "INVALID_REQUEST"),
        (413, "PAYLOAD_TOO_LARGE"),
        (415, "UNSUPPORTED_MEDIA_TYPE"),
        (418, "INVALID_REQUEST"),
        (451, "INVALID_REQUEST"),
        (499, "INVALID_REQUEST"),
        (503, "INTERNAL_ERROR"),
    ],
)
async def test_an_error_of_tornado_keeps_its_status(client, monkeypatch, status, code):
    def refuse(self: BaseHandler) -> None:
        raise HTTPError(status, "a secret")

    monkeypatch.setattr(BaseHandler, "check_head", refuse)
    answer = await client.fetch("GET", "/healthz")
    assert answer.status == (status if status < 500 else 500)
    assert answer.json()["error"]["data"]["code"] == code
    assert b"JSON-RPC message" not in answer.body
    assert b"secret" not in answer.body


class TestTwoServersInOneApplication:
    """Each has routes of the user's, which use the sessions of their own server."""

    @pytest.fixture
    def app(self, io_loop: Any) -> Any:
        first = create_app(
            MCPServer("first"),
            handlers=[(r"/upload-first", Upload), (r"/named", Upload, {"name": "given"})],
            server={"path": "/first", "allowed_hosts": ["*"]},
        )
        second = create_app(
            MCPServer("second"),
            handlers=[URLSpec(r"/upload-second", Upload, name="upload")],
            server={"path": "/second", "allowed_hosts": ["*"]},
        )
        existing = Application([(r"/plain", Upload, {"mcp_tornado": second.settings["mcp_tornado"]})])
        yield from run_lifespan(io_loop, mount(existing, (r"first\.example", first), (".*", second)))

    async def test_each_handler_and_each_metrics_route_knows_its_own(self, app, client):
        at_first = {"Host": "first.example"}
        made = await client.fetch("POST", "/first/session", **at_first)
        assert made.status == 201
        other = await client.fetch("POST", "/second/session")
        for path, host, status, other_status in (
            ("/upload-first", at_first, 200, 404),
            ("/named", at_first, 200, 404),
            ("/upload-second", {}, 404, 200),
            ("/plain", {}, 404, 200),
        ):
            assert (await client.fetch("GET", path, session=made.session, **host)).status == status, path
            assert (await client.fetch("GET", path, session=other.session, **host)).status == other_status, path
        named = await client.fetch("GET", "/named", session=made.session, **at_first)
        assert b'"name": "given"' in named.body
        await client.fetch("POST", "/second/session")
        for host, count in ((at_first, b"1.0"), ({}, b"2.0")):
            metrics = (await client.fetch("GET", "/metrics", **host)).body
            assert b"mcp_tornado_sessions_created_total " + count in metrics


async def test_two_applications_are_separate(client):
    """Another application in the process does not change which sessions a handler knows."""
    another = create_app(MCPServer("another"), handlers=[(r"/upload", Upload)])
    async with another.lifespan():
        session = await client.create_session()
        assert (await client.call_tool(session)).status == 200
        assert another.settings["mcp_tornado"].manager is not None
        assert await another.settings["mcp_tornado"].manager.count() == 0
