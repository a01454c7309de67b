"""All routes: only those that are meant to be open answer without a session.

The tests read the routes and the methods from the application, so they include a route that is added later.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from tornado.util import re_unescape

from tests.web.messages import PING, initialize_request

pytestmark = pytest.mark.gen_test(timeout=60)

CREATE_SESSIONS = {("POST", "/mcp"), ("POST", "/mcp/session")}
"""The methods and paths that may create a session; for POST /mcp that depends on the body."""
OPEN_PATHS = {"/healthz", "/readyz", "/metrics"}
BODIES = {
    ("POST", "/mcp"): {"jsonrpc": "2.0", "id": 1, "method": "ping"},
    ("POST", "/mcp/send"): {"jsonrpc": "2.0", "id": 1, "method": "ping"},
    ("POST", "/mcp/abort"): {"requestId": 1},
}


def routes_of(app: Any) -> dict[str, Any]:
    """Return each path with its handler class."""
    routes = {}
    for spec in app.routes:
        pattern = spec.matcher.regex.pattern.removesuffix("$")
        assert pattern.endswith("/?"), f"{pattern} has no form with a trailing slash"
        path = re_unescape(pattern.removesuffix("/?"))
        assert re.fullmatch(r"[/a-z]+", path), f"{path} is not a plain path"
        routes[path] = spec.target
    return routes


def mcp_methods_of(app: Any) -> list[tuple[str, str]]:
    """Return each method and path of the MCP routes, with and without a trailing slash."""
    return [
        (method, path + slash)
        for path, handler in routes_of(app).items()
        if path.startswith("/mcp")
        for method in handler.allowed_methods
        for slash in ("", "/")
    ]


async def send(client: Any, method: str, path: str, **request: Any) -> Any:
    body = BODIES.get((method, path.rstrip("/")))
    if body is not None:
        request["json_body"] = body
    return await client.fetch(method, path, **request)


def creates_session(method: str, path: str) -> bool:
    return (method, path.rstrip("/")) == ("POST", "/mcp/session")


def test_routes_are_those_of_the_contract(app):
    routes = routes_of(app)
    assert {path: set(handler.allowed_methods) for path, handler in routes.items()} == {
        "/mcp": {"GET", "POST", "DELETE"},
        "/mcp/session": {"GET", "POST", "DELETE"},
        "/mcp/send": {"POST"},
        "/mcp/receive": {"GET"},
        "/mcp/abort": {"POST"},
        "/healthz": {"GET", "HEAD"},
        "/readyz": {"GET", "HEAD"},
        "/metrics": {"GET", "HEAD"},
    }


def test_only_probes_and_metrics_need_no_session(app):
    open_paths = {path for path, handler in routes_of(app).items() if not handler.session_required}
    assert open_paths == OPEN_PATHS


async def test_no_session(app, client):
    for method, path in mcp_methods_of(app):
        if not creates_session(method, path):
            (await send(client, method, path)).assert_error("SESSION_REQUIRED")


@pytest.mark.parametrize(
    "value",
    ["", "with space", "a" * 129, "ü", "tab\there", ["a", "b"], ["a" * 43, "a" * 43, "b"]],
    ids=["empty", "space", "too-long", "not-ascii", "tab", "two", "two-of-three"],
)
async def test_malformed_id_is_refused(app, client, value):
    for method, path in mcp_methods_of(app):
        if not creates_session(method, path):
            (await send(client, method, path, Mcp_Session_Id=value)).assert_error("SESSION_ID_MALFORMED")


@pytest.mark.parametrize("value", ["a", "a" * 128, "!~" * 20, "Z" * 43])
async def test_unknown_id_is_not_found(app, client, value):
    for method, path in mcp_methods_of(app):
        if not creates_session(method, path):
            answer = await send(client, method, path, session=value)
            answer.assert_error("SESSION_NOT_FOUND")
            assert value not in answer.body.decode() or value == "a"


async def test_an_ended_session(app, client):
    session = await client.create_session()
    assert (await client.fetch("DELETE", "/mcp/session", session=session)).status == 204
    for method, path in mcp_methods_of(app):
        if not creates_session(method, path):
            (await send(client, method, path, session=session)).assert_error("SESSION_NOT_FOUND")


async def test_routes_that_create_sessions_need_none(app, client):
    for slash in ("", "/"):
        by_handshake = await client.fetch("POST", f"/mcp{slash}", json_body=initialize_request())
        assert (by_handshake.status, len(by_handshake.session)) == (200, 43)
        without = await client.fetch("POST", f"/mcp/session{slash}")
        assert (without.status, len(without.session)) == (201, 43)


async def test_initialize_with_an_id_of_no_live_session_creates_a_session(client):
    """Some clients send fixed headers: a session that has ended would keep them out for good."""
    ended = await client.create_session()
    assert (await client.fetch("DELETE", "/mcp", session=ended)).status == 204
    for former in (ended, "gone", "Z" * 43):
        answer = await client.fetch("POST", "/mcp", session=former, json_body=initialize_request())
        assert answer.result()["protocolVersion"] == "2025-11-25"
        assert answer.session not in (former, "")
        assert (await client.call_tool(answer.session)).status == 200
        # Only `initialize` does: any other message with that id is refused, also one that looks like it.
        for message in (PING, {"jsonrpc": "2.0", "method": "initialize"}, [initialize_request()]):
            refused = await client.fetch("POST", "/mcp", session=former, json_body=message)
            refused.assert_error("SESSION_NOT_FOUND")
        sent = await client.fetch("POST", "/mcp/send", session=former, json_body=initialize_request())
        sent.assert_error("SESSION_NOT_FOUND")


async def test_initialize_with_a_malformed_id_is_refused(client):
    for malformed in ("", "with space", "a" * 129, ["a", "b"]):
        answer = await client.fetch("POST", "/mcp", json_body=initialize_request(), Mcp_Session_Id=malformed)
        answer.assert_error("SESSION_ID_MALFORMED")
        assert "Mcp-Session-Id" not in answer.headers


async def test_no_method_runs_without_a_session(app, client, monkeypatch):
    """Not even the first line of the method runs, because the check comes before."""
    calls = []
    for path, handler in routes_of(app).items():
        for method in handler.allowed_methods:
            if path.startswith("/mcp") and (method, path) not in CREATE_SESSIONS:

                def run(self: Any, *args: Any, call: str = f"{method} {path}") -> None:
                    calls.append(call)

                monkeypatch.setattr(handler, method.lower(), run)
    session = await client.create_session()
    for method, path in mcp_methods_of(app):
        if (method, path.rstrip("/")) not in CREATE_SESSIONS:
            await send(client, method, path)
            await send(client, method, path, session="unknown")
    assert calls == []
    for method, path in mcp_methods_of(app):
        if (method, path.rstrip("/")) not in CREATE_SESSIONS:
            await send(client, method, path, session=session)
    assert len(calls) == 2 * 7


async def test_trailing_slash_makes_no_difference_and_never_redirects(app, client):
    for path, handler in routes_of(app).items():
        for method in handler.allowed_methods:
            answers = [await send(client, method, path + slash) for slash in ("", "/")]
            assert answers[0].status == answers[1].status
            assert not 300 <= answers[0].status < 400
            assert answers[0].status != 404
            assert answers[0].headers["Content-Type"] == answers[1].headers["Content-Type"]
            assert all("Location" not in answer.headers for answer in answers) or creates_session(method, path)


async def test_other_methods_are_not_allowed(app, client):
    for path, handler in routes_of(app).items():
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} - set(handler.allowed_methods):
            answer = await client.fetch(method, path)
            assert answer.status == 405, (method, path)
            assert set(answer.headers["Allow"].split(", ")) == {*handler.allowed_methods, "OPTIONS"}
            if method != "HEAD":
                answer.assert_error("METHOD_NOT_ALLOWED")


async def test_options_names_the_methods_without_a_session(app, client):
    for path, handler in routes_of(app).items():
        for slash in ("", "/"):
            answer = await client.fetch("OPTIONS", path + slash)
            assert (answer.status, answer.body) == (204, b"")
            assert set(answer.headers["Allow"].split(", ")) == {*handler.allowed_methods, "OPTIONS"}


@pytest.mark.parametrize(
    "path", ["/", "/mc", "/mcp2", "/mcp/", "/mcp//", "/mcp/other", "/MCP", "/mcp/session/x", "/x%0a"]
)
async def test_other_paths_are_not_found(client, path):
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        if path != "/mcp/":
            (await client.fetch(method, path)).assert_error("ROUTE_NOT_FOUND")


@pytest.mark.parametrize("sections", [{"server": {"path": "/a.b/mcp"}}])
async def test_routes_are_below_the_configured_path(app, client):
    assert (await client.fetch("POST", "/a.b/mcp", json_body=initialize_request())).status == 200
    made = await client.fetch("POST", "/a.b/mcp/session")
    assert (made.status, made.headers["Location"]) == (201, "/a.b/mcp/session")
    for path in ("/mcp", "/aXb/mcp", "/mcp/session"):
        (await client.fetch("POST", path)).assert_error("ROUTE_NOT_FOUND")


@pytest.mark.parametrize("sections", [{"sessions": {"mode": "off"}}])
async def test_session_routes_are_absent_if_sessions_are_off(client):
    for path in ("/mcp/session", "/mcp/send", "/mcp/receive", "/mcp/abort"):
        (await client.fetch("POST", path)).assert_error("ROUTE_NOT_FOUND")
    for method in ("GET", "DELETE"):
        answer = await client.fetch(method, "/mcp")
        answer.assert_error("METHOD_NOT_ALLOWED")
        assert answer.headers["Allow"] == "POST, OPTIONS"
    answer = await client.fetch("POST", "/mcp", json_body=initialize_request())
    assert answer.result()["protocolVersion"] == "2025-11-25"
    assert "Mcp-Session-Id" not in answer.headers


@pytest.mark.parametrize("sections", [{"metrics": {"enabled": False}}])
async def test_metrics_can_be_disabled(client):
    (await client.fetch("GET", "/metrics")).assert_error("ROUTE_NOT_FOUND")
