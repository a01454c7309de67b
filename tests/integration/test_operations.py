"""Logs, metrics and probes for operators."""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest

from tests.integration.server_process import Server, StartServer
from tests.integration.waiting import wait_until
from tests.integration.wire import Wire, open_wire

pytestmark = pytest.mark.anyio

METRICS = {
    "mcp_tornado_sessions_active",
    "mcp_tornado_sessions_created_total",
    "mcp_tornado_sessions_closed_total",
    "mcp_tornado_session_validations_total",
    "mcp_tornado_streams_active",
    "mcp_tornado_http_requests_total",
    "mcp_tornado_http_request_duration_seconds_count",
    "mcp_tornado_tool_calls_total",
    "mcp_tornado_store_operation_duration_seconds_count",
    "mcp_tornado_cleanup_last_success_timestamp_seconds",
    "mcp_tornado_build_info",
}


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    with start_server(LOG__LEVEL="DEBUG", SESSIONS__CLEANUP_INTERVAL_SECONDS=0.1) as server:
        yield server


async def use_every_feature(wire: Wire) -> str:
    """Use every route, with valid and invalid requests, and return the session's key."""
    await wire.open_session(capabilities={"elicitation": {}})
    key = await wire.call_tool("whoami")
    await wire.call_tool("logs", number=2)
    await wire.call_tool("change")
    async with wire.get_stream() as events:
        assert await events.next_message()
    async with wire.get_stream("nonsense") as events:
        assert await events.next_message()
    for path in ("/session", "/receive?wait=0"):
        assert (await wire.http.get(wire.server.url + path, headers=wire.headers)).status_code == 200
    await wire.post(wire.tool_request("crash"))
    await wire.post(wire.tool_request("nonesuch"))
    await wire.post({"requestId": 1}, "/abort")
    await wire.post("nonsense")
    await wire.post(wire.request("ping"), Mcp_Session_Id=wire.session_id + "x")
    await wire.delete()
    await wire.post(wire.request("ping"))
    return key


async def test_logs_and_metrics_contain_no_session_id_and_no_whole_key(server: Server) -> None:
    async with open_wire(server) as wire:
        key = await use_every_feature(wire)
        session_id = wire.session_id
        created = await wire.http.post(f"{server.url}/session")
        await server.wait_until_logged("session.terminated", session=key[:8])
        text = "".join(server.raw_log_lines)
        assert key[:8] in text
        for secret in (session_id, created.headers["Mcp-Session-Id"], key):
            # Not even the larger part of a secret may be logged.
            assert secret[:20] not in text
            assert secret[-20:] not in text
        metrics = await wire.metrics_text()
        assert session_id not in metrics
        assert key[:8] not in metrics


async def test_every_log_line_is_json_and_events_name_their_session(server: Server) -> None:
    async with open_wire(server) as wire:
        key = await use_every_feature(wire)
        await server.wait_until_logged("session.rejected", reason="unknown")
        await server.wait_until_logged("session.terminated", session=key[:8])
        for line in server.log_lines:
            assert {"event", "level", "timestamp", "logger"} <= line.keys()
        for name in ("session.created", "session.validated", "session.terminated"):
            line = await server.wait_until_logged(name, session=key[:8])
            assert line["request_id"]
            assert line["client"]
        rejected = server.log_lines_of("session.rejected")
        assert {line["level"] for line in rejected} == {"warning"}
        assert all(line["reason"] for line in rejected)
        finished = await server.wait_until_logged("cleanup.finished")
        assert {"removed", "seconds"} <= finished.keys()


async def test_all_metrics_exist(server: Server) -> None:
    async with open_wire(server) as wire:
        await use_every_feature(wire)
        await server.wait_until_logged("cleanup.finished")
        response = await wire.http.get(f"{server.origin}/metrics")
        assert response.headers["Content-Type"].startswith("text/plain")
        names = {re.split(r"[{ ]", line)[0] for line in response.text.splitlines() if not line.startswith("#")}
        assert names >= METRICS
        assert "# TYPE mcp_tornado_store_errors_total" in response.text.replace(
            "errors counter", "errors_total counter"
        )


async def test_clients_cannot_create_labels(server: Server) -> None:
    async with open_wire(server) as wire:
        await wire.open_session()
        for index in range(20):
            await wire.post(wire.tool_request(f"invented-{index}"))
            await wire.http.get(f"{server.origin}/invented/{index}")
            await wire.http.request(f"INVENT{index}", server.url)
        text = await wire.metrics_text()
        assert "invent" not in text.lower()
        assert 'mcp_tornado_tool_calls_total{outcome="error",tool="other"}' in text


async def test_tool_calls_are_counted_by_outcome(server: Server) -> None:
    async with open_wire(server) as wire:
        await wire.open_session()

        async def count(tool: str, outcome: str) -> float:
            text = await wire.metrics_text()
            found = re.search(rf'tool_calls_total{{outcome="{outcome}",tool="{tool}"}} (\S+)', text)
            return float(found[1]) if found else 0

        before = await count("add", "ok")
        assert await wire.call_tool("add", a=1, b=1) == "2"
        assert await count("add", "ok") == before + 1
        await wire.post(wire.tool_request("add", a="x", b="y"))
        assert await count("add", "error") >= 1


async def test_gauges_count_streams_and_sessions(server: Server) -> None:
    async with open_wire(server) as wire:
        await wire.open_session()

        async def gauge(kind: str) -> float:
            text = await wire.metrics_text()
            found = re.search(rf'streams_active{{kind="{kind}"}} (\S+)', text)
            return float(found[1]) if found else 0

        active = await wire.metric("mcp_tornado_sessions_active")
        async with wire.get_stream(), wire.get_stream(path="/receive", Accept="text/event-stream"):
            assert (await gauge("standalone"), await gauge("receive")) == (1, 1)

        async def are_closed() -> bool:
            return (await gauge("standalone"), await gauge("receive")) == (0, 0)

        await wait_until(are_closed, "both streams are closed")
        await wire.delete()
        assert await wire.metric("mcp_tornado_sessions_active") == active - 1


async def test_probes_may_use_an_address_as_host(server: Server) -> None:
    async with open_wire(server) as wire:
        for path in ("/healthz", "/readyz", "/metrics"):
            response = await wire.http.get(server.origin + path, headers={"Host": "10.1.2.3:8000"})
            assert response.status_code == 200
        refused = await wire.http.get(f"{server.origin}/metrics", headers={"Host": "node.example:8000"})
        assert refused.status_code == 421


async def test_probes_and_metrics_answer_head(server: Server) -> None:
    """Some monitoring sends HEAD. It gets the head that GET has, without the body."""
    async with open_wire(server) as wire:
        for path in ("/healthz", "/readyz", "/metrics"):
            head = await wire.http.head(server.origin + path)
            got = await wire.http.get(server.origin + path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["Content-Type"] == got.headers["Content-Type"]
            assert int(head.headers["Content-Length"]) > 0
        refused = await wire.http.head(wire.server.url)
        assert refused.status_code == 405
