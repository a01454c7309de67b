"""Clients that disconnect before they have the whole response."""

from __future__ import annotations

import pytest
from tornado.iostream import StreamClosedError

from tests.http1.site import serving

pytestmark = pytest.mark.anyio


async def test_disconnect_during_a_streamed_body_is_reported_once() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/upload", "Content-Length: 10", method="POST")
        client.send("hello")
        await site.state.received.wait()
        await client.close()
        await site.state.disconnected.wait()
        await site.wait_until_no_connections()
        assert site.state.disconnect_count == 1


async def test_disconnect_during_a_buffered_body_closes_the_connection() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/echo", "Content-Length: 10", method="POST")
        client.send("hello")
        await site.wait_until(
            lambda: any(connection._exchanges for connection in site.server.connections), "the server receives the head"
        )
        await client.close()
        await site.wait_until_no_connections()


@pytest.mark.parametrize("body", ["hel", "hello"])
async def test_disconnect_while_the_handler_prepares_is_reported_once(body: str) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(f"POST /preparing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{body}")
        await site.state.started.wait()
        await client.close()
        await site.state.disconnected.wait()
        site.state.release.set()
        await site.serve_other_requests(5)
        assert site.state.disconnect_count == 1


@pytest.mark.parametrize("path", ["/waiting", "/unchecked"])
@pytest.mark.parametrize("aborts", [False, True])
async def test_disconnect_while_the_handler_waits_is_reported_once(path: str, aborts: bool) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request(path)
        await site.state.started.wait()
        if aborts:
            client.abort()
        else:
            await client.close()
        await site.state.disconnected.wait()
        assert site.state.disconnect_count == 1
        site.state.release.set()
        await site.state.finished.wait()
        assert len(site.state.errors) == (path == "/waiting")
        await site.serve_other_requests(5)
        assert site.state.disconnect_count == 1


@pytest.mark.parametrize("reads", [False, True])
async def test_disconnect_while_the_handler_streams_is_reported_once(reads: bool) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/streaming")
        await client.reader.readexactly(100)
        if not reads:
            client.pause_reading()
            (connection,) = site.server.connections
            await site.wait_until(lambda: connection._is_writing_paused, "the output buffer is full")
        client.abort()
        await site.state.disconnected.wait()
        await site.state.finished.wait()
        assert site.state.disconnect_count == 1
        assert [type(error) for error in site.state.errors] == [StreamClosedError]


async def test_disconnect_discards_the_requests_that_wait() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/waiting")
        for _ in range(5):
            client.send_request("/large")
        await site.state.started.wait()
        await client.close()
        await site.state.disconnected.wait()
        site.state.release.set()
        await site.state.finished.wait()
        await site.serve_other_requests(5)
        assert site.state.call_count == 0
