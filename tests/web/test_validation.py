"""`SessionValidationMixin` in handlers of an embedding application."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs
from tornado.web import Application, RequestHandler, stream_request_body

from mcp_tornado import SessionValidationMixin, create_app
from mcp_tornado.sessions import StoreUnavailable
from tests.web.lifespan import run_lifespan

pytestmark = pytest.mark.gen_test(timeout=60)

calls: list[str] = []
"""The methods of the handlers that have run."""


class UploadHandler(SessionValidationMixin, RequestHandler):
    def get(self) -> None:
        calls.append("get")
        self.write({"key": self.session.key[:8], "version": self.session.protocol_version})

    async def post(self) -> None:
        calls.append("post")
        self.write({"key": self.session.key[:8], "size": len(self.request.body)})


class PreparingHandler(SessionValidationMixin, RequestHandler):
    """Has its own `prepare`, written as the documentation says."""

    async def prepare(self) -> None:
        await super().prepare()
        if self._finished:
            return
        calls.append("prepare")
        self.set_header("X-Key", self.session.key[:8])

    def get(self) -> None:
        calls.append("get")
        self.write("ok")


class RefusingBase(RequestHandler):
    """A base class whose `prepare` may refuse the request before the session check."""

    def prepare(self) -> None:
        if "X-Stop" in self.request.headers:
            self.set_status(418)
            self.finish("stopped")


class DerivedHandler(SessionValidationMixin, RefusingBase):
    def get(self) -> None:
        calls.append("get")
        self.write("ok")


class OpenHandler(SessionValidationMixin, RequestHandler):
    session_required = False

    def get(self) -> None:
        self.write({"session": hasattr(self, "session")})


@stream_request_body
class StreamedHandler(SessionValidationMixin, RequestHandler):
    def data_received(self, chunk: bytes) -> None:
        calls.append("data")

    def post(self) -> None:
        calls.append("post")
        self.write(self.session.key[:8])


class FailingHandler(SessionValidationMixin, RequestHandler):
    def get(self) -> None:
        raise ZeroDivisionError("a secret")


class ForgetfulHandler(SessionValidationMixin, RequestHandler):
    """Does not await the check."""

    def prepare(self) -> None:
        super().prepare()

    def get(self) -> None:
        calls.append("get")

    def post(self) -> None:
        calls.append("post")


class WithoutCheck(RequestHandler):
    def prepare(self) -> None:
        """Do not call the `prepare` of the next base."""


class SkippingHandler(WithoutCheck, SessionValidationMixin):
    def get(self) -> None:
        calls.append("get")

    head = put = delete = options = get


@stream_request_body
class ForgetfulStreamedHandler(ForgetfulHandler):
    def data_received(self, chunk: bytes) -> None:
        calls.append("data")


ROUTES: list[Any] = [
    (r"/forgetful", ForgetfulHandler),
    (r"/skipping", SkippingHandler),
    (r"/forgetful-streamed", ForgetfulStreamedHandler),
    (r"/upload", UploadHandler),
    (r"/preparing", PreparingHandler),
    (r"/derived", DerivedHandler),
    (r"/open", OpenHandler),
    (r"/streamed", StreamedHandler),
    (r"/failing", FailingHandler),
]


@pytest.fixture(autouse=True)
def clear_calls() -> None:
    calls.clear()


@pytest.fixture(params=["created", "existing"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def app(io_loop: Any, kind: str, server: object, sections: dict[str, Any]) -> Any:
    """Either an `MCPApplication` with handlers of the user's, or an application of the user's with the MCP routes."""
    if kind == "created":
        yield from run_lifespan(io_loop, create_app(server, handlers=ROUTES, **sections))
        return
    mcp_application = create_app(server, **sections)
    existing = Application([*ROUTES, (r"/own", OpenHandler)], own_setting=1)
    existing.add_handlers(".*", list(mcp_application.routes))
    existing.settings["mcp_tornado"] = mcp_application.settings["mcp_tornado"]
    existing.lifespan = mcp_application.lifespan
    yield from run_lifespan(io_loop, existing)


PATHS = ["/upload", "/preparing", "/derived", "/streamed", "/failing"]


@pytest.mark.parametrize("path", PATHS)
async def test_errors_are_those_of_the_mcp_routes(client, path):
    method = "POST" if path == "/streamed" else "GET"
    for headers, code in (
        ({}, "SESSION_REQUIRED"),
        ({"session": ""}, "SESSION_ID_MALFORMED"),
        ({"session": "a b"}, "SESSION_ID_MALFORMED"),
        ({"Mcp_Session_Id": ["a", "b"]}, "SESSION_ID_MALFORMED"),
        ({"session": "dead"}, "SESSION_NOT_FOUND"),
        ({"session": "dead", "MCP_Protocol_Version": "x"}, "UNSUPPORTED_PROTOCOL_VERSION"),
    ):
        (await client.fetch(method, path, **headers)).assert_error(code)
    assert [call for call in calls if call != "data"] == []


async def test_methods_have_the_session(client):
    session = await client.initialize("2025-06-18")
    key = (await client.fetch("GET", "/mcp/session", session=session)).json()["key"]
    answer = await client.fetch("GET", "/upload", session=session)
    assert (answer.status, answer.body) == (200, b'{"key": "%s", "version": "2025-06-18"}' % key.encode())
    posted = await client.fetch("POST", "/upload", session=session, body=b"x" * 100_000)
    assert posted.body == b'{"key": "%s", "size": 100000}' % key.encode()
    streamed = await client.fetch("POST", "/streamed", session=session, body=b"x" * 10)
    assert streamed.body == key.encode()
    prepared = await client.fetch("GET", "/preparing", session=session)
    assert (prepared.headers["X-Key"], prepared.body) == (key, b"ok")
    assert calls == ["get", "post", "data", "post", "prepare", "get"]


async def test_ended_session_is_not_found(client):
    session = await client.create_session()
    assert (await client.fetch("GET", "/upload", session=session)).status == 200
    await client.fetch("DELETE", "/mcp", session=session)
    (await client.fetch("GET", "/upload", session=session)).assert_error("SESSION_NOT_FOUND")
    assert calls == ["get"]


async def test_base_class_may_answer_in_prepare(client, caplog):
    session = await client.create_session()
    assert (await client.fetch("GET", "/derived", session=session)).body == b"ok"
    stopped = await client.fetch("GET", "/derived", session=session, X_Stop="1")
    assert (stopped.status, stopped.body) == (418, b"stopped")
    assert (await client.fetch("GET", "/derived", X_Stop="1")).status == 418
    assert calls == ["get"]
    assert "Traceback" not in caplog.text


async def test_open_handler_needs_no_session(client):
    for headers in ({}, {"session": "dead"}, {"session": ""}):
        answer = await client.fetch("GET", "/open", **headers)
        assert (answer.status, answer.body) == (200, b'{"session": false}')


async def test_options_needs_no_session(client):
    # This is Tornado's answer to a method that the handler does not have.
    assert (await client.fetch("OPTIONS", "/upload")).status == 405


async def test_exception_of_a_handler_is_a_500_without_its_text(client):
    session = await client.create_session()
    answer = await client.fetch("GET", "/failing", session=session)
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize("sections", [{"sessions": {"store": "faulty://"}}])
async def test_unavailable_store_is_an_error(faults, client):
    session = await client.create_session()
    faults.set_all(StoreUnavailable("away"))
    (await client.fetch("GET", "/upload", session=session)).assert_error("STORE_UNAVAILABLE")
    assert calls == []


async def test_mcp_routes_work_in_both_applications(client):
    session = await client.initialize()
    assert (await client.call_tool(session)).result()["content"][0]["text"] == "hello"
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await client.fetch("GET", path)).status == 200
    (await client.fetch("GET", "/mcp")).assert_error("SESSION_REQUIRED")


class TestApplicationWithoutSessions:
    @pytest.fixture
    def app(self) -> Any:
        return Application([(r"/upload", UploadHandler), (r"/open", OpenHandler)])

    async def test_handler_answers_500_without_a_traceback(self, client, caplog):
        answer = await client.fetch("GET", "/upload", session="any")
        assert answer.status == 500
        assert b"Traceback" not in answer.body
        assert b".py" not in answer.body
        assert calls == []
        assert "create_app" in caplog.text  # the log says what to do

    async def test_open_handler_works(self, client):
        assert (await client.fetch("GET", "/open")).status == 200


@pytest.mark.filterwarnings("ignore:coroutine 'SessionValidationMixin.prepare' was never awaited")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/forgetful"),
        ("POST", "/forgetful"),
        ("POST", "/forgetful-streamed"),
        *((method, "/skipping") for method in ("GET", "PUT", "DELETE", "OPTIONS")),
    ],
)
async def test_a_handler_whose_prepare_skips_the_check_fails_closed(client, method, path):
    session = await client.create_session()
    for given in (session, "dead", None):
        with capture_logs() as logs:
            answer = await client.fetch(method, path, session=given, body=b"x" if method == "POST" else None)
        answer.assert_error("INTERNAL_ERROR")
        (entry,) = [line for line in logs if line["event"] == "session.unchecked"]
        assert "awaits super().prepare()" in entry["hint"]
    assert calls == []
