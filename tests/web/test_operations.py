"""Probes, metrics and logs, also while the store is unavailable or a log handler fails."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import structlog

from mcp_tornado import log
from mcp_tornado.sessions import StoreUnavailable, session_key, short_key
from tests.web.messages import PING

pytestmark = pytest.mark.gen_test(timeout=60)

FAULTY = {"sessions": {"store": "faulty://"}}


async def read_metrics(client) -> dict[str, float]:
    answer = await client.fetch("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize("fault", [StoreUnavailable("away"), ConnectionRefusedError(), "hang"])
@pytest.mark.parametrize("sections", [FAULTY])
async def test_probes_while_the_store_is_unavailable(faults, short_store_timeout, client, fault):
    await client.create_session()
    assert (await read_metrics(client))["mcp_tornado_sessions_active"] == 1
    assert (await client.fetch("GET", "/readyz")).json() == {"status": "ready"}
    faults.set_all(fault)
    (await client.fetch("GET", "/readyz")).assert_error("STORE_UNAVAILABLE")
    faults.clear_calls()
    healthy = await client.fetch("GET", "/healthz")
    assert (healthy.status, healthy.json()) == (200, {"status": "ok"})
    assert faults.calls == []  # /healthz does not use the store
    values = await read_metrics(client)
    assert values["mcp_tornado_sessions_active"] == 1
    assert values['mcp_tornado_store_errors_total{operation="ping"}'] == 1
    faults.set_all(None)
    assert (await client.fetch("GET", "/readyz")).status == 200


@pytest.mark.parametrize("sections", [FAULTY])
async def test_metrics_are_served_whatever_the_store_raises(faults, client):
    faults.set_all(ZeroDivisionError())
    await read_metrics(client)


@pytest.mark.parametrize("sections", [FAULTY])
async def test_request_reads_the_store_once_and_writes_nothing(faults, client):
    session = await client.create_session()
    faults.clear_calls()
    assert (await client.call_tool(session)).status == 200
    assert faults.calls == ["get"]


@pytest.mark.parametrize("sections", [FAULTY])
async def test_change_that_cannot_be_stored_is_an_error(faults, client):
    """The change would be lost with this process, and a client that had a success could not know that."""
    session = await client.create_session()
    faults.of["update"] = StoreUnavailable("away")
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    other = await client.initialize(ready=False)
    (await client.fetch("POST", "/mcp", session=other, json_body=initialized)).assert_error("STORE_UNAVAILABLE")
    assert (await client.call_tool(session)).status == 200


async def test_requests_are_counted_with_bounded_labels(client):
    session = await client.create_session()
    await client.call_tool(session)
    for number in range(30):
        await client.fetch(f"M{number}", f"/no/such/path/{number}")
        await client.fetch("GET", "/mcp", session=f"unknown-{number}")
        await client.call_tool(session, f"no-such-tool-{number}")
        await client.fetch(
            "POST", "/mcp", session=session, json_body={"jsonrpc": "2.0", "id": 1, "method": f"no/such/{number}"}
        )
        await client.fetch("POST", "/mcp", session=session, json_body=PING, Content_Type=f"a/{number}")
        await client.fetch("GET", "/mcp", session=session, MCP_Protocol_Version=f"v{number}")
    values = await read_metrics(client)
    assert values['mcp_tornado_http_requests_total{code="201",handler="SessionHandler",method="POST"}'] == 1
    assert values['mcp_tornado_http_requests_total{code="404",handler="MCPHandler",method="GET"}'] == 30
    assert values['mcp_tornado_http_requests_total{code="415",handler="MCPHandler",method="POST"}'] == 30
    assert values['mcp_tornado_tool_calls_total{outcome="ok",tool="echo"}'] == 1
    assert values['mcp_tornado_tool_calls_total{outcome="error",tool="other"}'] == 30
    assert values['mcp_tornado_session_validations_total{outcome="unknown"}'] == 30
    assert values["mcp_tornado_sessions_created_total"] == 1
    assert not [name for name in values if re.search(r"no.such|unknown-\d|M\d|v\d", name)]
    series = [name for name in values if name.startswith("mcp_tornado_http_requests_total")]
    assert len(series) < 15
    labels = {label for name in series for label in re.findall(r'method="(.*?)"', name)}
    assert labels <= {"GET", "HEAD", "POST", "DELETE", "OPTIONS", "other"}


async def test_streams_are_counted_while_they_are_open(client):
    session = await client.create_session()
    stream = await client.open_stream("GET", "/mcp", Mcp_Session_Id=session)
    assert (await read_metrics(client))['mcp_tornado_streams_active{kind="standalone"}'] == 1
    await client.fetch("DELETE", "/mcp", session=session)
    assert await stream.read_event() is None
    values = await read_metrics(client)
    assert values['mcp_tornado_streams_active{kind="standalone"}'] == 0
    assert values['mcp_tornado_sessions_closed_total{reason="deleted"}'] == 1
    assert values["mcp_tornado_sessions_active"] == 0
    assert values.get('mcp_tornado_http_request_duration_seconds_count{handler="MCPHandler",method="GET"}', 0) == 0


# ---------------------------------------------------------------------- logs


class BrokenHandler(logging.Handler):
    """A log handler that raises; the handlers of `logging` only print an error."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left on device")


@pytest.fixture
def broken_logging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every log line reaches a handler that raises."""
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
        root.handlers[:] = [BrokenHandler()]
        root.setLevel(logging.DEBUG)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("broken_logging", ["structlog", "logging"], indirect=True)
@pytest.mark.parametrize("sections", [FAULTY])
async def test_failing_log_handler_does_not_fail_a_request(faults, client, broken_logging):
    session = await client.initialize()
    assert (await client.call_tool(session)).result()["content"][0]["text"] == "hello"
    assert (await client.call_tool(session, "fail")).result()["isError"] is True
    (await client.fetch("GET", "/mcp")).assert_error("SESSION_REQUIRED")
    (await client.fetch("GET", "/mcp", session="dead")).assert_error("SESSION_NOT_FOUND")
    (await client.fetch("GET", "/nowhere")).assert_error("ROUTE_NOT_FOUND")
    unknown = {"jsonrpc": "2.0", "id": 4, "method": "no/such"}
    answer = await client.fetch("POST", "/mcp", session=session, json_body=unknown)
    assert answer.json()["error"]["code"] == -32601
    for notification in ("notifications/x", "notifications/cancelled", "notifications/progress"):
        message = {"jsonrpc": "2.0", "method": notification, "params": {}}
        assert (await client.fetch("POST", "/mcp", session=session, json_body=message)).status == 202
    assert (await client.fetch("GET", "/healthz")).status == 200
    faults.of["get"] = ZeroDivisionError()
    (await client.fetch("GET", "/mcp/session", session=session)).assert_error("INTERNAL_ERROR")
    faults.of["get"] = StoreUnavailable("away")
    (await client.fetch("GET", "/mcp/session", session=session)).assert_error("STORE_UNAVAILABLE")
    faults.set_all(None)
    assert (await client.fetch("DELETE", "/mcp", session=session)).status == 204


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("sections", [FAULTY])
async def test_log_has_neither_session_ids_nor_whole_keys(faults, client, log_format, capsys):
    """This includes tracebacks: a renderer that prints local variables would show them."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        log.configure("DEBUG", log_format)
        session = await client.initialize()
        await client.call_tool(session, "fail")
        faults.of["get"] = ZeroDivisionError("the cause")
        (await client.fetch("GET", "/mcp/session", session=session)).assert_error("INTERNAL_ERROR")
        faults.set_all(None)
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
    # Renderers wrap long lines, so the test looks for a part of the id.
    assert session[:20] not in re.sub(r"[\s│]", "", written)


async def test_log_event_names_the_session_the_request_and_the_client(client, monkeypatch):
    logged: list[dict[str, Any]] = []
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, lambda _, __, event: logged.append(event) or str(event)]
    )
    monkeypatch.setattr(log, "_threshold", logging.DEBUG)
    try:
        session = await client.create_session()
        await client.fetch("GET", "/mcp/session", session=session)
        await client.fetch("GET", "/mcp", session="dead")
        await client.fetch("DELETE", "/mcp", session=session)
    finally:
        structlog.reset_defaults()
    key = next(event["session"] for event in logged if event["event"] == "session.created")
    assert len(key) == 8
    events = {event["event"]: event for event in logged}
    assert set(events) >= {"session.created", "session.validated", "session.rejected", "session.terminated"}
    for name in ("session.created", "session.validated", "session.terminated"):
        assert (events[name]["session"], bool(events[name]["request_id"])) == (key, True), name
        assert "client" in events[name]
    assert events["session.rejected"]["reason"] == "unknown"
    # The key of the requested session, not that of the request before.
    assert events["session.rejected"]["session"] == short_key(session_key("dead")) != key
    assert len({event["request_id"] for event in logged if "request_id" in event}) == 4
