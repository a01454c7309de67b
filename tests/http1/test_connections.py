"""Connections: keep-alive, pipelining, HTTP/1.0 and upgrade requests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from tests.http1.site import serving

pytestmark = pytest.mark.anyio


async def call_from_loop(function: Callable[[bytes], None], data: bytes) -> None:
    """Let the event loop call a function, as it calls protocols, after everything that is scheduled already."""
    called = asyncio.Event()

    def call() -> None:
        function(data)
        called.set()

    asyncio.get_running_loop().call_soon(call)
    await called.wait()


async def test_connection_stays_open_between_requests() -> None:
    async with serving() as site:
        client = await site.connect()
        for number in range(5):
            client.send_request(f"/echo/{number}")
            response = await client.read_response()
            assert (response.status, response.body) == (200, f"GET /echo/{number}".encode())
            assert "connection" not in response.headers
        assert len(site.server.connections) == 1


async def test_connection_closes_after_connection_close() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/echo", "Connection: close")
        response = await client.read_response()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert await client.is_at_end()


@pytest.mark.parametrize("count", [2, 16, 17, 18, 100, 2000])
async def test_pipelined_requests_are_answered_in_order(count: int) -> None:
    async with serving() as site:
        client = await site.connect()
        for number in range(count):
            client.send_request(f"/echo/{number}")
        for number in range(count):
            assert (await client.read_response()).body == f"GET /echo/{number}".encode()
        client.send_request("/echo/after")
        assert (await client.read_response()).body == b"GET /echo/after"


async def test_request_may_arrive_in_single_bytes() -> None:
    async with serving() as site:
        client = await site.connect()
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests = (
            b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
            b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        connection = await site.only_connection()
        for byte in requests:
            await call_from_loop(connection.data_received, bytes([byte]))
        assert (await client.read_response()).body == b"hello"
        assert (await client.read_response()).body == b"abcde"
        connection.received_bytes = 0
        for count, byte in enumerate(requests, start=1):
            client.send(bytes([byte]))
            await site.wait_until(lambda count=count: connection.received_bytes == count, f"byte {count} arrives")
        assert (await client.read_response()).body == b"hello"
        assert (await client.read_response()).body == b"abcde"


@pytest.mark.parametrize("headers", ["HTTP/1.1\r\nHost: localhost\r\nConnection: close", "HTTP/1.0"])
async def test_input_after_the_last_request_is_ignored(headers: str) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(f"GET /echo {headers}\r\n\r\nGET /echo/more HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.read_response()).body == b"GET /echo"
        assert await client.is_at_end()


async def test_http_1_0_closes_the_connection() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /echo HTTP/1.0\r\n\r\n")
        response = await client.read_response()
        assert (response.body, response.headers["connection"]) == (b"GET /echo", "close")
        assert await client.is_at_end()


async def test_http_1_0_connection_stays_open_with_keep_alive() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(3):
            client.send_request("/echo", "Connection: keep-alive", version="HTTP/1.0")
            response = await client.read_response()
            assert (response.body, response.headers["connection"]) == (b"GET /echo", "keep-alive")


async def test_http_1_0_response_is_not_chunked() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/chunks", "Connection: keep-alive", version="HTTP/1.0")
        response = await client.read_response()
        assert "transfer-encoding" not in response.headers
        assert response.headers["connection"] == "close"
        assert response.body == b"onetwothree"


@pytest.mark.parametrize(
    "headers",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
        (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
    ],
)
class TestUpgradeRequests:
    async def test_request_is_answered_without_the_upgrade(self, headers: tuple[str, ...]) -> None:
        async with serving() as site:
            client = await site.connect()
            client.send_request("/echo", *headers)
            response = await client.read_response()
            assert (response.status, response.body) == (200, b"GET /echo")
            assert response.headers["connection"] == "close"
            assert await client.is_at_end()

    async def test_request_with_a_body_is_answered_without_the_upgrade(self, headers: tuple[str, ...]) -> None:
        async with serving() as site:
            client = await site.connect()
            client.send_request("/echo", *headers, "Content-Length: 5", method="POST")
            client.send("hel")
            client.send("lo")
            response = await client.read_response()
            assert (response.status, response.body) == (200, b"hello")
            assert response.headers["connection"] == "close"
            assert await client.is_at_end()

    async def test_input_after_the_request_does_not_replace_the_response(self, headers: tuple[str, ...]) -> None:
        async with serving() as site:
            client = await site.connect()
            client.send_request("/waiting", *headers)
            await site.state.started.wait()
            client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            await site.serve_other_requests()
            site.state.release.set()
            assert (await client.read_response()).body == b"waitedwaited"
            assert await client.is_at_end()
