"""Timeouts of idle and stalled connections."""

from __future__ import annotations

import pytest

from tests.http1.handlers import MEGABYTE
from tests.http1.site import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("is_used", [False, True])
async def test_idle_connection_is_closed(is_used: bool) -> None:
    async with serving() as site:
        client = await site.connect()
        if is_used:
            client.send_request("/echo")
            await client.read_response()
        await site.only_connection()
        site.check_timeouts(590)
        await site.serve_other_requests(3)
        assert len(site.server.connections) >= 1
        client.send_request("/echo")
        assert (await client.read_response()).status == 200
        site.check_timeouts(610)
        assert await client.is_at_end()
        await site.wait_until_no_connections()


@pytest.mark.parametrize(
    "part", ["GET", "GET /echo HTTP/1.1\r\nHost: ", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel"]
)
async def test_stalled_connection_is_closed(part: str) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(part)
        connection = await site.only_connection()
        await site.wait_until(lambda: connection._is_in_head or connection._exchanges, "the server receives a part")
        site.check_timeouts(50)
        assert not any(connection._transport.is_closing() for connection in site.server.connections)
        site.check_timeouts(70)
        assert await client.is_at_end()
        await site.wait_until_no_connections()


async def test_connection_with_a_running_handler_stays_open() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/waiting")
        client.send("GET /echo HT")
        await site.state.started.wait()
        site.check_timeouts(100_000)
        await site.serve_other_requests(3)
        site.state.release.set()
        assert (await client.read_response()).body == b"waitedwaited"


async def test_connection_with_a_streaming_handler_stays_open() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/streaming")
        await site.state.started.wait()
        site.check_timeouts(100_000)
        await site.serve_other_requests(3)
        site.state.release.set()
        response = await client.read_response()
        assert response.body
        assert not response.body.strip(b"x")


async def test_client_that_waits_for_continue_is_not_stalled() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/preparing", "Expect: 100-continue", "Content-Length: 5", method="POST")
        await site.state.started.wait()
        (connection,) = site.server.connections
        site.check_timeouts(100)
        assert not connection._transport.is_closing()
        site.state.release.set()
        assert (await client.read_head())[1] == 100
        client.send("hello")
        assert (await client.read_response()).body == b"hello"


async def test_client_that_the_server_does_not_read_is_not_stalled() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_post("/preparing", b"x" * 8 * MEGABYTE)
        await site.state.started.wait()
        (connection,) = site.server.connections
        await site.wait_until(lambda: not connection._transport.is_reading(), "the server stops reading")
        site.check_timeouts(100)
        assert not connection._transport.is_closing()
        site.state.release.set()
        assert len((await client.read_response()).body) == 8 * MEGABYTE
