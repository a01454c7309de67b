"""What operators see: logs, metrics, health."""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest

from tests.integration.conftest import Server, StartServer, Wire, until, wire_to

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


async def exercise(wire: Wire) -> str:
    """Do something of everything, and return the session's key."""
    await wire.open(capabilities={"elicitation": {}})
    key = await wire.tool("whoami")
    await wire.tool("logs", number=2)
    await wire.tool("change")
    async with wire.listen() as events:
        assert await events.message()
    async with wire.listen("nonsense") as events:
        await events.rest()
    for path in ("/session", "/receive?wait=0"):
        assert (await wire.http.get(wire.server.url + path, headers=wire.headers)).status_code == 200
    await wire.post(wire.call("crash"))
    await wire.post(wire.call("nonesuch"))
    await wire.post({"requestId": 1}, "/abort")
    await wire.post("nonsense")
    await wire.post(wire.request("ping"), Mcp_Session_Id=wire.session_id + "x")
    await wire.delete()
    await wire.post(wire.request("ping"))
    return key


async def test_logs_never_hold_an_id_or_a_whole_key(server: Server) -> None:
    async with wire_to(server) as wire:
        key = await exercise(wire)
        session_id = wire.session_id
        made = await wire.http.post(f"{server.url}/session")
        await server.line("session.terminated", session=key[:8])
        text = "".join(server.texts)
        assert key[:8] in text
        for secret in (session_id, made.headers["Mcp-Session-Id"], key):
            # Not even most of it.
            assert secret[:20] not in text
            assert secret[-20:] not in text
        metrics = (await wire.http.get(f"{server.origin}/metrics")).text
        assert session_id not in metrics
        assert key[:8] not in metrics


async def test_every_line_is_json_and_events_say_whose(server: Server) -> None:
    async with wire_to(server) as wire:
        key = await exercise(wire)
        await server.line("session.rejected", reason="unknown")
        await server.line("session.terminated", session=key[:8])
        for line in server.lines:
            assert {"event", "level", "timestamp", "logger"} <= line.keys()
        for name in ("session.created", "session.validated", "session.terminated"):
            line = await server.line(name, session=key[:8])
            assert line["request_id"]
            assert line["client"]
        rejected = server.events("session.rejected")
        assert {line["level"] for line in rejected} == {"warning"}
        assert all(line["reason"] for line in rejected)
        finished = await server.line("cleanup.finished")
        assert {"removed", "seconds"} <= finished.keys()


async def test_the_metrics_have_their_names(server: Server) -> None:
    async with wire_to(server) as wire:
        await exercise(wire)
        await server.line("cleanup.finished")
        response = await wire.http.get(f"{server.origin}/metrics")
        assert response.headers["Content-Type"].startswith("text/plain")
        names = {re.split(r"[{ ]", line)[0] for line in response.text.splitlines() if not line.startswith("#")}
        assert names >= METRICS
        assert "# TYPE mcp_tornado_store_errors_total" in response.text.replace(
            "errors counter", "errors_total counter"
        )


async def test_clients_cannot_make_labels_at_will(server: Server) -> None:
    async with wire_to(server) as wire:
        await wire.open()
        for index in range(20):
            await wire.post(wire.call(f"invented-{index}"))
            await wire.http.get(f"{server.origin}/invented/{index}")
            await wire.http.request(f"INVENT{index}", server.url)
        text = (await wire.http.get(f"{server.origin}/metrics")).text
        assert "invent" not in text.lower()
        assert 'mcp_tornado_tool_calls_total{outcome="error",tool="other"}' in text


async def test_tool_calls_are_counted_by_outcome(server: Server) -> None:
    async with wire_to(server) as wire:
        await wire.open()

        async def count(tool: str, outcome: str) -> float:
            text = (await wire.http.get(f"{server.origin}/metrics")).text
            found = re.search(rf'tool_calls_total{{outcome="{outcome}",tool="{tool}"}} (\S+)', text)
            return float(found[1]) if found else 0

        before = await count("add", "ok")
        assert await wire.tool("add", a=1, b=1) == "2"
        assert await count("add", "ok") == before + 1
        await wire.post(wire.call("add", a="x", b="y"))
        assert await count("add", "error") >= 1


async def test_streams_and_sessions_are_gauged(server: Server) -> None:
    async with wire_to(server) as wire:
        await wire.open()

        async def gauge(kind: str) -> float:
            text = (await wire.http.get(f"{server.origin}/metrics")).text
            found = re.search(rf'streams_active{{kind="{kind}"}} (\S+)', text)
            return float(found[1]) if found else 0

        active = await wire.metric("mcp_tornado_sessions_active")
        async with wire.listen(), wire.listen(path="/receive", Accept="text/event-stream"):
            assert (await gauge("standalone"), await gauge("receive")) == (1, 1)

        async def closed() -> bool:
            return (await gauge("standalone"), await gauge("receive")) == (0, 0)

        await until(closed)
        await wire.delete()
        assert await wire.metric("mcp_tornado_sessions_active") == active - 1


async def test_probes_call_by_address(server: Server) -> None:
    async with wire_to(server) as wire:
        for path in ("/healthz", "/readyz"):
            response = await wire.http.get(server.origin + path, headers={"Host": "10.1.2.3:8000"})
            assert response.status_code == 200
        refused = await wire.http.get(f"{server.origin}/metrics", headers={"Host": "10.1.2.3:8000"})
        assert refused.status_code == 421
