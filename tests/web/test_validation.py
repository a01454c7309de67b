"""`SessionValidationMixin` in front of handlers that are not ours."""

from __future__ import annotations

from typing import Any

import pytest
from tornado.web import Application, RequestHandler, stream_request_body

from mcp_tornado import SessionValidationMixin, create_app
from mcp_tornado.sessions import StoreUnavailable

pytestmark = pytest.mark.gen_test

RAN: list[str] = []


class Upload(SessionValidationMixin, RequestHandler):
    def get(self) -> None:
        RAN.append("get")
        self.write({"key": self.session.key[:8], "version": self.session.protocol_version})

    async def post(self) -> None:
        RAN.append("post")
        self.write({"key": self.session.key[:8], "size": len(self.request.body)})


class Prepared(SessionValidationMixin, RequestHandler):
    """Has a `prepare` of its own, as the documentation says."""

    async def prepare(self) -> None:
        await super().prepare()
        if self._finished:
            return
        RAN.append("prepare")
        self.set_header("X-Key", self.session.key[:8])

    def get(self) -> None:
        RAN.append("get")
        self.write("ok")


class Base(RequestHandler):
    """A base that refuses by itself, before the session is looked at."""

    def prepare(self) -> None:
        if "X-Stop" in self.request.headers:
            self.set_status(418)
            self.finish("stopped")


class Based(SessionValidationMixin, Base):
    def get(self) -> None:
        RAN.append("get")
        self.write("ok")


class Open(SessionValidationMixin, RequestHandler):
    session_required = False

    def get(self) -> None:
        self.write({"session": hasattr(self, "session")})


@stream_request_body
class Streamed(SessionValidationMixin, RequestHandler):
    def data_received(self, chunk: bytes) -> None:
        RAN.append("data")

    def post(self) -> None:
        RAN.append("post")
        self.write(self.session.key[:8])


class Failing(SessionValidationMixin, RequestHandler):
    def get(self) -> None:
        raise ZeroDivisionError("a secret")


ROUTES: list[Any] = [
    (r"/upload", Upload),
    (r"/prepared", Prepared),
    (r"/based", Based),
    (r"/open", Open),
    (r"/streamed", Streamed),
    (r"/failing", Failing),
]


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


@pytest.fixture(params=["created", "existing"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def app(io_loop: Any, kind: str, server: object, sections: dict[str, Any], helpers: Any) -> Any:
    """Once our application with handlers of the user's, once the user's application with routes of ours."""
    if kind == "created":
        yield from helpers.living(io_loop, create_app(server, handlers=ROUTES, **sections))
        return
    ours = create_app(server, **sections)
    theirs = Application([*ROUTES, (r"/theirs", Open)], own_setting=1)
    theirs.add_handlers(".*", list(ours.routes))
    theirs.settings["mcp_tornado"] = ours.settings["mcp_tornado"]
    theirs.lifespan = ours.lifespan
    yield from helpers.living(io_loop, theirs)


PATHS = ["/upload", "/prepared", "/based", "/streamed", "/failing"]


@pytest.mark.parametrize("path", PATHS)
async def test_the_same_errors_as_on_routes_of_ours(client, path):
    method = "POST" if path == "/streamed" else "GET"
    for given, code in (
        ({}, "SESSION_REQUIRED"),
        ({"session": ""}, "SESSION_ID_MALFORMED"),
        ({"session": "a b"}, "SESSION_ID_MALFORMED"),
        ({"Mcp_Session_Id": ["a", "b"]}, "SESSION_ID_MALFORMED"),
        ({"session": "dead"}, "SESSION_NOT_FOUND"),
        ({"session": "dead", "MCP_Protocol_Version": "x"}, "UNSUPPORTED_PROTOCOL_VERSION"),
    ):
        (await client.fetch(method, path, **given)).assert_error(code)
    assert [what for what in RAN if what != "data"] == []


async def test_the_session_is_there(client):
    session = await client.initialize("2025-06-18")
    key = (await client.fetch("GET", "/mcp/session", session=session)).json()["key"]
    got = await client.fetch("GET", "/upload", session=session)
    assert (got.status, got.body) == (200, b'{"key": "%s", "version": "2025-06-18"}' % key.encode())
    posted = await client.fetch("POST", "/upload", session=session, body=b"x" * 100_000)
    assert posted.body == b'{"key": "%s", "size": 100000}' % key.encode()
    streamed = await client.fetch("POST", "/streamed", session=session, body=b"x" * 10)
    assert streamed.body == key.encode()
    prepared = await client.fetch("GET", "/prepared", session=session)
    assert (prepared.headers["X-Key"], prepared.body) == (key, b"ok")
    assert RAN == ["get", "post", "data", "post", "prepare", "get"]


async def test_a_session_that_ended_is_not_found(client):
    session = await client.session()
    assert (await client.fetch("GET", "/upload", session=session)).status == 200
    await client.fetch("DELETE", "/mcp", session=session)
    (await client.fetch("GET", "/upload", session=session)).assert_error("SESSION_NOT_FOUND")
    assert RAN == ["get"]


async def test_a_base_with_a_prepare_of_its_own(client, caplog):
    session = await client.session()
    assert (await client.fetch("GET", "/based", session=session)).body == b"ok"
    stopped = await client.fetch("GET", "/based", session=session, X_Stop="1")
    assert (stopped.status, stopped.body) == (418, b"stopped")
    assert (await client.fetch("GET", "/based", X_Stop="1")).status == 418
    assert RAN == ["get"]
    assert "Traceback" not in caplog.text


async def test_a_handler_that_is_open(client):
    for given in ({}, {"session": "dead"}, {"session": ""}):
        answer = await client.fetch("GET", "/open", **given)
        assert (answer.status, answer.body) == (200, b'{"session": false}')


async def test_options_need_no_session(client):
    assert (await client.fetch("OPTIONS", "/upload")).status == 405  # Tornado's own answer: there is no such method


async def test_what_a_handler_raises_is_its_own_affair(client):
    session = await client.session()
    answer = await client.fetch("GET", "/failing", session=session)
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize("sections", [{"sessions": {"store": "faulty://"}}])
async def test_a_store_that_is_away(faults, client):
    session = await client.session()
    faults.all(StoreUnavailable("away"))
    (await client.fetch("GET", "/upload", session=session)).assert_error("STORE_UNAVAILABLE")
    assert RAN == []


async def test_our_routes_work_as_ever(client, helpers):
    session = await client.initialize()
    assert (await client.call(session)).result()["content"][0]["text"] == "hello"
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await client.fetch("GET", path)).status == 200
    (await client.fetch("GET", "/mcp")).assert_error("SESSION_REQUIRED")


class TestWithoutAnApplicationThatKnowsSessions:
    @pytest.fixture
    def app(self) -> Any:
        return Application([(r"/upload", Upload), (r"/open", Open)])

    async def test_it_is_an_error_of_the_server_without_a_traceback(self, client, caplog):
        answer = await client.fetch("GET", "/upload", session="any")
        assert answer.status == 500
        assert b"Traceback" not in answer.body
        assert b".py" not in answer.body
        assert RAN == []
        assert "create_app" in caplog.text  # the operator is told what to do

    async def test_what_is_open_works(self, client):
        assert (await client.fetch("GET", "/open")).status == 200
