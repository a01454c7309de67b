"""How sessions end by themselves, and what keeps them alive."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime

import anyio
import httpx
import pytest

from tests.integration.conftest import (
    Frame,
    Server,
    StartServer,
    Wire,
    error_code,
    text_of,
    until,
    wire_to,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Generator[Server]:
    """Sessions that live for one second, and are swept ten times a second."""
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
def mortal(start_server: StartServer) -> Generator[Server]:
    """Sessions that live for a second, used or not."""
    with start_server(SESSIONS__LIFETIME_SECONDS=1, SESSIONS__CLEANUP_INTERVAL_SECONDS=0.1) as server:
        yield server


async def test_an_idle_session_is_swept(server: Server) -> None:
    async with wire_to(server) as wire:
        await wire.open()

        async def swept() -> bool:
            created = await wire.metric("mcp_tornado_sessions_created_total")
            return await wire.metric("mcp_tornado_sessions_closed_total") == created

        await until(swept)
        response = await wire.post(wire.request("ping"))
        assert (response.status_code, error_code(response)) == (404, "SESSION_NOT_FOUND")
        assert 'reason="expired"' in (await wire.http.get(f"{server.origin}/metrics")).text
        assert any(line["removed"] >= 1 for line in server.events("cleanup.finished"))
        assert await wire.metric("mcp_tornado_cleanup_last_success_timestamp_seconds") > 0


async def test_an_expired_session_that_is_not_swept_yet_says_so(unswept: Server) -> None:
    async with wire_to(unswept) as wire:
        await wire.open()

        async def expired() -> bool:
            return await wire.metric("mcp_tornado_sessions_active") == 0

        await until(expired)
        for response in (
            await wire.post(wire.call("echo", text="x")),
            await wire.initialize(),
            await wire.delete(),
            await wire.http.get(f"{unswept.url}/session", headers=wire.headers),
        ):
            assert (response.status_code, error_code(response)) == (404, "SESSION_EXPIRED")


async def outlived(wire: Wire) -> None:
    """Return once a session that is made now, and that nothing keeps alive, has come to its end."""
    idle = wire.fork()
    made = await wire.http.post(f"{wire.server.url}/session")
    idle.headers = {"Mcp-Session-Id": made.headers["Mcp-Session-Id"]}
    expires_at = datetime.fromisoformat(made.json()["expiresAt"])

    async def expired() -> bool:
        return datetime.now(UTC) > expires_at

    await until(expired)
    assert (await idle.post(idle.request("ping"))).status_code == 404


async def test_an_open_stream_keeps_its_session_alive(server: Server) -> None:
    async with wire_to(server) as wire:
        await wire.open()
        async with wire.listen() as events:
            assert await events.comment()
            await outlived(wire)
            await outlived(wire)
            await wire.tool("change")
            assert (await events.message())["method"] == "notifications/tools/list_changed"


async def test_a_long_poll_keeps_its_session_alive(server: Server) -> None:
    async with wire_to(server) as wire:
        await wire.open()
        async with anyio.create_task_group() as tasks:
            responses: list[httpx.Response] = []

            async def poll() -> None:
                responses.append(await wire.http.get(f"{server.url}/receive?wait=60", headers=wire.headers))

            tasks.start_soon(poll)
            await outlived(wire)
            await outlived(wire)
            await wire.tool("change")
        assert responses[0].status_code == 200
        assert responses[0].json()["events"]


@pytest.mark.parametrize("connected", [True, False])
async def test_a_running_call_keeps_its_session_alive(server: Server, connected: bool) -> None:
    gate = f"alive-{connected}"
    async with wire_to(server) as wire:
        await wire.open()
        frames: list[Frame] = []
        async with wire.stream(wire.call("wait_at", gate=gate)) as events:
            primed = await events.next()
            assert primed is not None
            if connected:
                await outlived(wire)
                await outlived(wire)
                await wire.tool("open_gate", gate=gate)
                frames = await events.rest()
        if not connected:
            await outlived(wire)
            await outlived(wire)
            await wire.tool("open_gate", gate=gate)
            async with wire.listen(primed.id) as events:
                frames = await events.rest()
        assert text_of(frames[-1].message) == f"through {gate}"


async def test_a_used_session_lives_on(server: Server) -> None:
    async with wire_to(server) as wire, anyio.create_task_group() as tasks:
        await wire.open()

        async def use() -> None:
            while True:
                assert await wire.tool("echo", text="x") == "x"
                await anyio.sleep(0.1)

        tasks.start_soon(use)
        await outlived(wire)
        await outlived(wire)
        assert await wire.tool("echo", text="x") == "x"
        tasks.cancel_scope.cancel()


async def test_the_end_of_a_lifetime_ends_streams_and_calls(mortal: Server) -> None:
    async with wire_to(mortal) as wire:
        await wire.open()
        async with (
            wire.listen() as standalone,
            wire.stream(wire.call("logs_then_wait", gate="mortal", before=1, after=0, id=1)) as running,
        ):
            assert await running.message()
            assert await standalone.rest() == []
            answer = (await running.rest())[-1]
            assert answer.message["id"] == 1
            assert "error" in answer.message
        response = await wire.post(wire.request("ping"))
        assert response.status_code == 404


async def test_the_number_of_sessions_is_capped(start_server: StartServer) -> None:
    with start_server(SESSIONS__MAX_SESSIONS=3) as server:
        async with wire_to(server) as wire:
            opened = [await wire.fork().open() for _ in range(3)]
            for refused in (await wire.initialize(), await wire.http.post(f"{server.url}/session")):
                assert (refused.status_code, error_code(refused)) == (503, "SESSION_LIMIT_REACHED")
                assert int(refused.headers["Retry-After"]) > 0
                assert "Mcp-Session-Id" not in refused.headers
            assert (await opened[0].initialize()).status_code == 200, "those that live may negotiate anew"
            await opened[0].delete()
            assert (await wire.initialize()).status_code == 200
