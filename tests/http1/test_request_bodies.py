"""Request bodies: their framing, handlers that take or refuse them, and `Expect: 100-continue`."""

from __future__ import annotations

import asyncio

import pytest

from tests.http1.handlers import MEGABYTE
from tests.http1.site import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/echo", "/upload"])
async def test_chunked_body_is_received(path: str) -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(2):
            client.send_request(path, "Transfer-Encoding: chunked", method="POST")
            client.send(b"5\r\nhello\r\n")
            client.send(b"6;extension=1\r\n world\r\n0\r\n\r\n")
            assert (await client.read_response()).body == b"hello world"


@pytest.mark.parametrize("path", ["/echo", "/upload"])
@pytest.mark.parametrize("size", [0, 1, 5 * MEGABYTE])
async def test_body_with_content_length_is_received(path: str, size: int) -> None:
    async with serving() as site:
        client = await site.connect()
        body = bytes(range(256)) * (size // 256 + 1)
        for _ in range(2):
            client.send_post(path, body[:size])
            assert (await client.read_response()).body == body[:size]


async def test_trailers_are_not_headers() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/headers", "Transfer-Encoding: chunked", method="POST")
        client.send(b"1\r\nx\r\n0\r\nX-Trailer: smuggled\r\n\r\n")
        response = await client.read_response()
        assert b"smuggled" not in response.body


async def test_endless_trailers_are_refused() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/upload", "Transfer-Encoding: chunked", method="POST")
        client.send(b"1\r\nx\r\n0\r\n")
        await site.state.received.wait()
        (connection,) = site.server.connections
        for number in range(3000):
            connection.data_received(b"X-Trailer-%d: %b\r\n" % (number, b"x" * 100))
            if connection._is_closing or connection._is_lost:
                break
        assert connection._is_closing or connection._is_lost


@pytest.mark.parametrize("path", ["/slow-upload", "/task-upload"])
async def test_slow_handler_receives_the_whole_body(path: str) -> None:
    async with serving() as site:
        client = await site.connect()
        body = b"0123456789abcdef" * (MEGABYTE // 2)
        client.send_post(path, body)
        connection = await site.only_connection()
        await site.wait_until(lambda: not connection._transport.is_reading(), "the server stops reading")
        assert connection._exchanges[0].buffered_bytes < 2 * MEGABYTE
        site.state.release.set()
        assert (await client.read_response()).body == body
        client.send_request("/echo")
        assert (await client.read_response()).status == 200


async def test_handler_that_fails_at_a_piece_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_post("/failing-upload", b"hello")
        start = await client.reader.read(12)
        assert start in (b"", b"HTTP/1.1 500")
        assert (await site.fetch("/echo")).status == 200
    caplog.clear()


async def test_client_that_still_sends_receives_the_response() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/refusing", f"Content-Length: {8 * MEGABYTE}", method="POST")
        client.send(b"x" * MEGABYTE)
        response = await client.read_response()
        assert (response.status, response.body) == (403, b"refused")
        assert response.headers["connection"] == "close"
        client.send(b"x" * 7 * MEGABYTE)
        await client.writer.drain()
        assert await client.is_at_end()
        await client.close()
        await site.wait_until_no_connections()


async def test_connection_stays_open_after_a_received_body_is_refused() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(2):
            client.send("POST /refusing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
            assert (await client.read_response()).status == 403


async def test_continue_is_sent_when_the_handler_is_ready() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/preparing", "Expect: 100-continue", "Content-Length: 5", method="POST")
        await site.state.started.wait()
        site.state.release.set()
        assert await client.read_head() == ("HTTP/1.1", 100, {})
        client.send("hello")
        assert (await client.read_response()).body == b"hello"
        client.send_request("/echo")
        assert (await client.read_response()).status == 200


async def test_continue_is_sent_for_a_handler_that_takes_the_whole_body() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/echo", "Expect: 100-continue", "Content-Length: 5", method="POST")
        async with asyncio.timeout(5):
            assert await client.read_head() == ("HTTP/1.1", 100, {})
        client.send("hello")
        assert (await client.read_response()).body == b"hello"


async def test_continue_is_sent_once() -> None:
    async with serving() as site:
        client = await site.connect()
        site.state.release.set()
        client.send_request("/task-upload", "Expect: 100-continue", "Content-Length: 10", method="POST")
        assert await client.read_head() == ("HTTP/1.1", 100, {})
        client.send("hello")
        await site.state.received.wait()
        await site.serve_other_requests(3)
        client.send("world")
        response = await client.read_response()
        assert (response.status, response.body) == (200, b"helloworld")


async def test_continue_is_not_sent_if_the_handler_refuses() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/refusing", "Expect: 100-continue", "Content-Length: 5", method="POST")
        response = await client.read_response()
        assert (response.status, response.body) == (403, b"refused")
        assert response.headers["connection"] == "close"
        assert await client.is_at_end()


async def test_continue_is_not_sent_if_the_body_has_arrived() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(
            "POST /preparing HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
        )
        await site.state.started.wait()
        site.state.release.set()
        response = await client.read_response()
        assert (response.status, response.body) == (200, b"hello")
