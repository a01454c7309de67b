"""Probes, metrics and logs, also while the store is away or a log handler fails."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import structlog

from mcp_tornado import log
from mcp_tornado.sessions import StoreUnavailable, session_key, short_key

pytestmark = pytest.mark.gen_test

FAULTY = {"sessions": {"store": "faulty://"}}
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
JSON_ONLY = {"events": {"stream_after_seconds": 60}}


async def metrics(client) -> dict[str, float]:
    answer = await client.fetch("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize("fault", [StoreUnavailable("away"), ConnectionRefusedError(), "hang"])
@pytest.mark.parametrize("sections", [FAULTY])
async def test_probes_while_the_store_is_away(faults, short_time_limit, client, fault):
    await client.session()
    assert (await metrics(client))["mcp_tornado_sessions_active"] == 1
    assert (await client.fetch("GET", "/readyz")).json() == {"status": "ready"}
    faults.all(fault)
    (await client.fetch("GET", "/readyz")).assert_error("STORE_UNAVAILABLE")
    faults.calls.clear()
    alive = await client.fetch("GET", "/healthz")
    assert (alive.status, alive.json()) == (200, {"status": "ok"})
    assert faults.calls == []  # it touches nothing
    during = await metrics(client)
    assert during["mcp_tornado_sessions_active"] == 1
    assert during['mcp_tornado_store_errors_total{operation="ping"}'] == 1
    faults.all(None)
    assert (await client.fetch("GET", "/readyz")).status == 200


@pytest.mark.parametrize("sections", [FAULTY])
async def test_metrics_survive_whatever_the_store_raises(faults, client):
    faults.all(ZeroDivisionError())
    await metrics(client)


@pytest.mark.parametrize("sections", [FAULTY])
async def test_a_request_reads_the_store_once_and_writes_nothing(faults, client):
    session = await client.session()
    faults.calls.clear()
    assert (await client.call(session)).status == 200
    assert faults.calls == ["get"]


@pytest.mark.parametrize("sections", [FAULTY])
async def test_a_change_that_cannot_be_stored_is_an_error(faults, client):
    """The level would be lost with this process: a client that was told otherwise could not know."""
    session = await client.session()
    faults.of["update"] = StoreUnavailable("away")
    setting = {"jsonrpc": "2.0", "id": 1, "method": "notifications/initialized"}
    other = await client.initialize(ready=False)
    del setting["id"]
    (await client.fetch("POST", "/mcp", session=other, json_body=setting)).assert_error("STORE_UNAVAILABLE")
    assert (await client.call(session)).status == 200


async def test_requests_are_counted_with_bounded_labels(client):
    session = await client.session()
    await client.call(session)
    for number in range(30):
        await client.fetch(f"M{number}", f"/no/such/path/{number}")
        await client.fetch("GET", "/mcp", session=f"unknown-{number}")
        await client.call(session, f"no-such-tool-{number}")
        await client.fetch(
            "POST", "/mcp", session=session, json_body={"jsonrpc": "2.0", "id": 1, "method": f"no/such/{number}"}
        )
        await client.fetch("POST", "/mcp", session=session, json_body=PING, Content_Type=f"a/{number}")
        await client.fetch("GET", "/mcp", session=session, MCP_Protocol_Version=f"v{number}")
    got = await metrics(client)
    assert got['mcp_tornado_http_requests_total{code="201",handler="SessionHandler",method="POST"}'] == 1
    assert got['mcp_tornado_http_requests_total{code="404",handler="MCPHandler",method="GET"}'] == 30
    assert got['mcp_tornado_http_requests_total{code="415",handler="MCPHandler",method="POST"}'] == 30
    assert got['mcp_tornado_tool_calls_total{outcome="ok",tool="echo"}'] == 1
    assert got['mcp_tornado_tool_calls_total{outcome="error",tool="other"}'] == 30
    assert got['mcp_tornado_session_validations_total{outcome="unknown"}'] == 30
    assert got["mcp_tornado_sessions_created_total"] == 1
    assert not [name for name in got if re.search(r"no.such|unknown-\d|M\d|v\d", name)]
    series = [name for name in got if name.startswith("mcp_tornado_http_requests_total")]
    assert len(series) < 15
    labels = {label for name in series for label in re.findall(r'method="(.*?)"', name)}
    assert labels <= {"GET", "POST", "DELETE", "OPTIONS", "other"}


async def test_streams_are_counted_while_they_are_open(client, helpers):
    session = await client.session()
    stream = await client.stream("GET", "/mcp", Mcp_Session_Id=session)
    assert (await metrics(client))['mcp_tornado_streams_active{kind="standalone"}'] == 1
    await client.fetch("DELETE", "/mcp", session=session)
    assert await stream.event() is None
    got = await metrics(client)
    assert got['mcp_tornado_streams_active{kind="standalone"}'] == 0
    assert got['mcp_tornado_sessions_closed_total{reason="deleted"}'] == 1
    assert got["mcp_tornado_sessions_active"] == 0
    assert got.get('mcp_tornado_http_request_duration_seconds_count{handler="MCPHandler",method="GET"}', 0) == 0


# ---------------------------------------------------------------------- logs


class Broken(logging.Handler):
    """Raises, where logging's own handlers only print."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left on device")


@pytest.fixture
def broken_logging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Everything that is logged meets a handler that raises."""
    monkeypatch.setattr(log, "_threshold", logging.DEBUG)
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    if request.param == "structlog":

        def fail(*_: Any) -> Any:
            raise OSError("no space left on device")

        structlog.configure(processors=[fail])
    else:
        structlog.configure(
            processors=[structlog.stdlib.render_to_log_kwargs],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        root.handlers[:] = [Broken()]
        root.setLevel(logging.DEBUG)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("broken_logging", ["structlog", "logging"], indirect=True)
@pytest.mark.parametrize("sections", [FAULTY])
async def test_a_failing_log_handler_never_fails_a_request(faults, client, broken_logging, helpers):
    session = await client.initialize()
    assert (await client.call(session)).result()["content"][0]["text"] == "hello"
    assert (await client.call(session, "fail")).result()["isError"] is True
    (await client.fetch("GET", "/mcp")).assert_error("SESSION_REQUIRED")
    (await client.fetch("GET", "/mcp", session="dead")).assert_error("SESSION_NOT_FOUND")
    (await client.fetch("GET", "/nowhere")).assert_error("ROUTE_NOT_FOUND")
    unknown = {"jsonrpc": "2.0", "id": 4, "method": "no/such"}
    answer = await client.fetch("POST", "/mcp", session=session, json_body=unknown)
    assert answer.json()["error"]["code"] == -32601
    for notification in ("notifications/x", "notifications/cancelled", "notifications/progress"):
        told = {"jsonrpc": "2.0", "method": notification, "params": {}}
        assert (await client.fetch("POST", "/mcp", session=session, json_body=told)).status == 202
    assert (await client.fetch("GET", "/healthz")).status == 200
    faults.of["get"] = ZeroDivisionError()
    (await client.fetch("GET", "/mcp/session", session=session)).assert_error("INTERNAL_ERROR")
    faults.of["get"] = StoreUnavailable("away")
    (await client.fetch("GET", "/mcp/session", session=session)).assert_error("STORE_UNAVAILABLE")
    faults.all(None)
    assert (await client.fetch("DELETE", "/mcp", session=session)).status == 204


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("sections", [FAULTY])
async def test_no_log_line_holds_an_id_or_a_whole_key(faults, client, log_format, capsys, helpers):
    """Nor does a traceback: a renderer that prints local variables would show what the frames hold."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        log.configure("DEBUG", log_format)
        session = await client.initialize()
        await client.call(session, "fail")
        faults.of["get"] = ZeroDivisionError("the cause")
        (await client.fetch("GET", "/mcp/session", session=session)).assert_error("INTERNAL_ERROR")
        faults.all(None)
        await client.fetch("DELETE", "/mcp", session=session)
        (await client.fetch("GET", "/mcp", session=session)).assert_error("SESSION_NOT_FOUND")
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
        log._threshold = logging.INFO
    written = capsys.readouterr().err
    assert "session.created" in written
    assert "ZeroDivisionError" in written
    # Renderers wrap long lines, so a part of it is what is looked for.
    assert session[:20] not in re.sub(r"[\s│]", "", written)


async def test_an_event_has_the_session_the_request_and_the_client(client, monkeypatch):
    seen: list[dict[str, Any]] = []
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, lambda _, __, event: seen.append(event) or str(event)]
    )
    monkeypatch.setattr(log, "_threshold", logging.DEBUG)
    try:
        session = await client.session()
        await client.fetch("GET", "/mcp/session", session=session)
        await client.fetch("GET", "/mcp", session="dead")
        await client.fetch("DELETE", "/mcp", session=session)
    finally:
        structlog.reset_defaults()
    key = next(event["session"] for event in seen if event["event"] == "session.created")
    assert len(key) == 8
    events = {event["event"]: event for event in seen}
    assert set(events) >= {"session.created", "session.validated", "session.rejected", "session.terminated"}
    for name in ("session.created", "session.validated", "session.terminated"):
        assert (events[name]["session"], bool(events[name]["request_id"])) == (key, True), name
        assert "client" in events[name]
    assert events["session.rejected"]["reason"] == "unknown"
    # The key of what was asked for, and not the one of the request before.
    assert events["session.rejected"]["session"] == short_key(session_key("dead")) != key
    assert len({event["request_id"] for event in seen if "request_id" in event}) == 4
