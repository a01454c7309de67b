"""A walk over all routes: nothing but what is meant to be open answers without a session.

The walk reads the routes and the methods of the application, so a route that is added later is covered by itself.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from tornado.util import re_unescape

pytestmark = pytest.mark.gen_test

OPEN = {("POST", "/mcp"), ("POST", "/mcp/session")}
"""What creates sessions; for POST /mcp its body says so."""
UNPROTECTED = {"/healthz", "/readyz", "/metrics"}
BODIES = {
    ("POST", "/mcp"): {"jsonrpc": "2.0", "id": 1, "method": "ping"},
    ("POST", "/mcp/send"): {"jsonrpc": "2.0", "id": 1, "method": "ping"},
    ("POST", "/mcp/abort"): {"requestId": 1},
}


def routes(app: Any) -> dict[str, Any]:
    """Return each path with its handler class."""
    found = {}
    for spec in app.routes:
        pattern = spec.matcher.regex.pattern.removesuffix("$")
        assert pattern.endswith("/?"), f"{pattern} has no form with a trailing slash"
        path = re_unescape(pattern.removesuffix("/?"))
        assert re.fullmatch(r"[/a-z]+", path), f"{path} is not a plain path"
        found[path] = spec.target
    return found


def protected(app: Any) -> list[tuple[str, str]]:
    """Return each method and path that belongs to MCP, with and without a trailing slash."""
    return [
        (method, path + slash)
        for path, handler in routes(app).items()
        if path.startswith("/mcp")
        for method in handler.allowed
        for slash in ("", "/")
    ]


async def ask(client: Any, method: str, path: str, **given: Any) -> Any:
    body = BODIES.get((method, path.rstrip("/")))
    if body is not None:
        given["json_body"] = body
    return await client.fetch(method, path, **given)


def creates(method: str, path: str) -> bool:
    return (method, path.rstrip("/")) == ("POST", "/mcp/session")


def test_the_walk_finds_the_routes_of_the_contract(app):
    found = routes(app)
    assert {path: set(handler.allowed) for path, handler in found.items()} == {
        "/mcp": {"GET", "POST", "DELETE"},
        "/mcp/session": {"GET", "POST", "DELETE"},
        "/mcp/send": {"POST"},
        "/mcp/receive": {"GET"},
        "/mcp/abort": {"POST"},
        "/healthz": {"GET"},
        "/readyz": {"GET"},
        "/metrics": {"GET"},
    }


def test_only_probes_and_metrics_are_marked_as_open(app):
    opened = {path for path, handler in routes(app).items() if not handler.session_required}
    assert opened == UNPROTECTED


async def test_no_session(app, client):
    for method, path in protected(app):
        if not creates(method, path):
            (await ask(client, method, path)).assert_error("SESSION_REQUIRED")


@pytest.mark.parametrize(
    "value",
    ["", "with space", "a" * 129, "ü", "tab\there", ["a" * 43, "a" * 43], ["a", "b"]],
    ids=["empty", "space", "too-long", "not-ascii", "tab", "twice", "two"],
)
async def test_a_malformed_id(app, client, value):
    for method, path in protected(app):
        if not creates(method, path):
            (await ask(client, method, path, Mcp_Session_Id=value)).assert_error("SESSION_ID_MALFORMED")


@pytest.mark.parametrize("value", ["a", "a" * 128, "!~" * 20, "Z" * 43])
async def test_an_unknown_id(app, client, value):
    for method, path in protected(app):
        if not creates(method, path):
            answer = await ask(client, method, path, session=value)
            answer.assert_error("SESSION_NOT_FOUND")
            assert value not in answer.body.decode() or value == "a"


async def test_an_ended_session(app, client):
    session = await client.session()
    assert (await client.fetch("DELETE", "/mcp/session", session=session)).status == 204
    for method, path in protected(app):
        if not creates(method, path):
            (await ask(client, method, path, session=session)).assert_error("SESSION_NOT_FOUND")


async def test_what_creates_sessions_needs_none(app, client, helpers):
    for slash in ("", "/"):
        by_handshake = await client.fetch("POST", f"/mcp{slash}", json_body=helpers.initialize())
        assert (by_handshake.status, len(by_handshake.session)) == (200, 43)
        without = await client.fetch("POST", f"/mcp/session{slash}")
        assert (without.status, len(without.session)) == (201, 43)


async def test_initialize_with_a_dead_id_is_not_found(client, helpers):
    answer = await client.fetch("POST", "/mcp", session="gone", json_body=helpers.initialize())
    answer.assert_error("SESSION_NOT_FOUND")
    assert "Mcp-Session-Id" not in answer.headers


async def test_no_method_runs_without_a_session(app, client, monkeypatch):
    """Not even its first line: the check is in front of it."""
    ran = []
    for path, handler in routes(app).items():
        for method in handler.allowed:
            if path.startswith("/mcp") and (method, path) not in OPEN:

                def run(self: Any, *args: Any, where: str = f"{method} {path}") -> None:
                    ran.append(where)

                monkeypatch.setattr(handler, method.lower(), run)
    session = await client.session()
    for method, path in protected(app):
        if (method, path.rstrip("/")) not in OPEN:
            await ask(client, method, path)
            await ask(client, method, path, session="unknown")
    assert ran == []
    for method, path in protected(app):
        if (method, path.rstrip("/")) not in OPEN:
            await ask(client, method, path, session=session)
    assert len(ran) == 2 * 7


async def test_both_forms_of_a_path_answer_alike_and_never_redirect(app, client):
    for path, handler in routes(app).items():
        for method in handler.allowed:
            answers = [await ask(client, method, path + slash) for slash in ("", "/")]
            assert answers[0].status == answers[1].status
            assert not 300 <= answers[0].status < 400
            assert answers[0].status != 404
            assert answers[0].headers["Content-Type"] == answers[1].headers["Content-Type"]
            assert all("Location" not in answer.headers for answer in answers) or creates(method, path)


async def test_other_methods_are_not_allowed(app, client):
    for path, handler in routes(app).items():
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} - set(handler.allowed):
            answer = await client.fetch(method, path)
            assert answer.status == 405, (method, path)
            assert set(answer.headers["Allow"].split(", ")) == {*handler.allowed, "OPTIONS"}
            if method != "HEAD":
                answer.assert_error("METHOD_NOT_ALLOWED")


async def test_options_names_the_methods_without_a_session(app, client):
    for path, handler in routes(app).items():
        for slash in ("", "/"):
            answer = await client.fetch("OPTIONS", path + slash)
            assert (answer.status, answer.body) == (204, b"")
            assert set(answer.headers["Allow"].split(", ")) == {*handler.allowed, "OPTIONS"}


@pytest.mark.parametrize(
    "path", ["/", "/mc", "/mcp2", "/mcp/", "/mcp//", "/mcp/other", "/MCP", "/mcp/session/x", "/x%0a"]
)
async def test_other_paths_are_not_found(client, path):
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        if path != "/mcp/":
            (await client.fetch(method, path)).assert_error("ROUTE_NOT_FOUND")


@pytest.mark.parametrize("sections", [{"server": {"path": "/a.b/mcp"}}])
async def test_the_routes_move_with_the_path(app, client, helpers):
    assert (await client.fetch("POST", "/a.b/mcp", json_body=helpers.initialize())).status == 200
    made = await client.fetch("POST", "/a.b/mcp/session")
    assert (made.status, made.headers["Location"]) == (201, "/a.b/mcp/session")
    for path in ("/mcp", "/aXb/mcp", "/mcp/session"):
        (await client.fetch("POST", path)).assert_error("ROUTE_NOT_FOUND")


@pytest.mark.parametrize("sections", [{"sessions": {"mode": "off"}}])
async def test_without_sessions_their_routes_are_gone(client, helpers):
    for path in ("/mcp/session", "/mcp/send", "/mcp/receive", "/mcp/abort"):
        (await client.fetch("POST", path)).assert_error("ROUTE_NOT_FOUND")
    for method in ("GET", "DELETE"):
        answer = await client.fetch(method, "/mcp")
        answer.assert_error("METHOD_NOT_ALLOWED")
        assert answer.headers["Allow"] == "POST, OPTIONS"
    answer = await client.fetch("POST", "/mcp", json_body=helpers.initialize())
    assert answer.result()["protocolVersion"] == "2025-11-25"
    assert "Mcp-Session-Id" not in answer.headers


@pytest.mark.parametrize("sections", [{"metrics": {"enabled": False}}])
async def test_metrics_can_be_switched_off(client):
    (await client.fetch("GET", "/metrics")).assert_error("ROUTE_NOT_FOUND")
