"""Expiry of sessions, and what keeps a session alive."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime

import anyio
import httpx
import pytest

from tests.integration.server_process import Server, StartServer
from tests.integration.waiting import wait_until
from tests.integration.wire import Frame, Wire, answer_text, error_code, open_wire

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    """A server whose sessions expire after one idle second and are swept ten times a second."""
    with start_server(
        SESSIONS__IDLE_TIMEOUT_SECONDS=1,
        SESSIONS__CLEANUP_INTERVAL_SECONDS=0.1,
        SERVER__KEEPALIVE_SECONDS=0.2,
        EVENTS__STREAM_AFTER_SECONDS=0.1,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def unswept(start_server: StartServer) -> Generator[Server]:
    with start_server(SESSIONS__IDLE_TIMEOUT_SECONDS=0.3) as server:
        yield server


@pytest.fixture(scope="module")
def short_lifetime(start_server: StartServer) -> Generator[Server]:
    """A server whose sessions end after one second, even in use."""
    with start_server(SESSIONS__LIFETIME_SECONDS=1, SESSIONS__CLEANUP_INTERVAL_SECONDS=0.1) as server:
        yield server


async def test_an_idle_session_is_swept(server: Server) -> None:
    async with open_wire(server) as wire:
        await wire.open_session()

        async def is_swept() -> bool:
            created = await wire.metric("mcp_tornado_sessions_created_total")
            return await wire.metric("mcp_tornado_sessions_closed_total") == created

        await wait_until(is_swept, "all created sessions are closed")
        response = await wire.post(wire.request("ping"))
        assert (response.status_code, error_code(response)) == (404, "SESSION_NOT_FOUND")
        assert 'reason="expired"' in await wire.metrics_text()
        assert any(line["removed"] >= 1 for line in server.log_lines_of("cleanup.finished"))
        assert await wire.metric("mcp_tornado_cleanup_last_success_timestamp_seconds") > 0


async def test_an_expired_session_that_is_not_swept_yet_is_reported_as_expired(unswept: Server) -> None:
    async with open_wire(unswept) as wire:
        await wire.open_session()

        async def is_expired() -> bool:
            return await wire.metric("mcp_tornado_sessions_active") == 0

        await wait_until(is_expired, "no session is active")
        for response in (
            await wire.post(wire.tool_request("echo", text="x")),
            await wire.delete(),
            await wire.http.get(f"{unswept.url}/session", headers=wire.headers),
        ):
            assert (response.status_code, error_code(response)) == (404, "SESSION_EXPIRED")
        renewed = await wire.initialize()
        assert renewed.headers["Mcp-Session-Id"] not in ("", wire.session_id)


async def wait_for_idle_session_to_expire(wire: Wire) -> None:
    """Create a session that nothing keeps alive, and return when it has expired."""
    idle = wire.new_client()
    created = await wire.http.post(f"{wire.server.url}/session")
    idle.headers = {"Mcp-Session-Id": created.headers["Mcp-Session-Id"]}
    expires_at = datetime.fromisoformat(created.json()["expiresAt"])

    async def is_expired() -> bool:
        return datetime.now(UTC) > expires_at

    await wait_until(is_expired, f"it is later than {expires_at}")
    assert (await idle.post(idle.request("ping"))).status_code == 404


async def test_an_open_stream_keeps_its_session_alive(server: Server) -> None:
    async with open_wire(server) as wire:
        await wire.open_session()
        async with wire.get_stream() as events:
            assert await events.next_comment()
            await wait_for_idle_session_to_expire(wire)
            await wait_for_idle_session_to_expire(wire)
            await wire.call_tool("change")
            assert (await events.next_message())["method"] == "notifications/tools/list_changed"


async def test_a_long_poll_keeps_its_session_alive(server: Server) -> None:
    async with open_wire(server) as wire:
        await wire.open_session()
        async with anyio.create_task_group() as tasks:
            responses: list[httpx.Response] = []

            async def poll() -> None:
                responses.append(await wire.http.get(f"{server.url}/receive?wait=60", headers=wire.headers))

            tasks.start_soon(poll)
            await wait_for_idle_session_to_expire(wire)
            await wait_for_idle_session_to_expire(wire)
            await wire.call_tool("change")
        assert responses[0].status_code == 200
        assert responses[0].json()["events"]


@pytest.mark.parametrize("connected", [True, False])
async def test_a_running_call_keeps_its_session_alive(server: Server, connected: bool) -> None:
    gate = f"alive-{connected}"
    async with open_wire(server) as wire:
        await wire.open_session()
        frames: list[Frame] = []
        async with wire.post_stream(wire.tool_request("wait_at", gate=gate)) as events:
            priming = await events.next_frame()
            assert priming is not None
            if connected:
                await wait_for_idle_session_to_expire(wire)
                await wait_for_idle_session_to_expire(wire)
                await wire.call_tool("open_gate", gate=gate)
                frames = await events.read_to_end()
        if not connected:
            await wait_for_idle_session_to_expire(wire)
            await wait_for_idle_session_to_expire(wire)
            await wire.call_tool("open_gate", gate=gate)
            async with wire.get_stream(priming.id) as events:
                frames = await events.read_to_end()
        assert answer_text(frames[-1].message) == f"through {gate}"


async def test_a_session_in_use_stays_alive(server: Server) -> None:
    async with open_wire(server) as wire, anyio.create_task_group() as tasks:
        await wire.open_session()

        async def use_session() -> None:
            while True:  # until the test cancels it
                assert await wire.call_tool("echo", text="x") == "x"
                await anyio.sleep(0.1)

        tasks.start_soon(use_session)
        await wait_for_idle_session_to_expire(wire)
        await wait_for_idle_session_to_expire(wire)
        assert await wire.call_tool("echo", text="x") == "x"
        tasks.cancel_scope.cancel()


async def test_the_end_of_a_lifetime_ends_streams_and_calls(short_lifetime: Server) -> None:
    async with open_wire(short_lifetime) as wire:
        await wire.open_session()
        async with (
            wire.get_stream() as standalone,
            wire.post_stream(wire.tool_request("logs_then_wait", gate="lifetime", before=1, after=0, id=1)) as running,
        ):
            assert await running.next_message()
            assert await standalone.read_to_end() == []
            answer = (await running.read_to_end())[-1]
            assert answer.message["id"] == 1
            assert "error" in answer.message
        response = await wire.post(wire.request("ping"))
        assert response.status_code == 404


async def test_the_number_of_sessions_is_capped(start_server: StartServer) -> None:
    with start_server(SESSIONS__MAX_SESSIONS=3) as server:
        async with open_wire(server) as wire:
            opened = [await wire.new_client().open_session() for _ in range(3)]
            for refused in (await wire.initialize(), await wire.http.post(f"{server.url}/session")):
                assert (refused.status_code, error_code(refused)) == (503, "SESSION_LIMIT_REACHED")
                assert int(refused.headers["Retry-After"]) > 0
                assert "Mcp-Session-Id" not in refused.headers
            assert (await opened[0].initialize()).status_code == 200, "a live session can be negotiated again"
            await opened[0].delete()
            assert (await wire.initialize()).status_code == 200
