"""Flow control: clients that send faster than handlers read, or read slower than handlers write."""

from __future__ import annotations

import pytest

from tests.http1.handlers import MEGABYTE
from tests.http1.site import serving

pytestmark = pytest.mark.anyio


async def test_reading_pauses_while_too_many_requests_wait() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/waiting")
        await site.state.started.wait()
        client.send(b"".join(b"GET /echo/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(40)))
        (connection,) = site.server.connections
        await site.wait_until(lambda: not connection._transport.is_reading(), "the server stops reading")
        site.state.release.set()
        assert (await client.read_response()).body == b"waitedwaited"
        for number in range(40):
            assert (await client.read_response()).body == f"GET /echo/{number}".encode()
        await site.wait_until(lambda: connection._transport.is_reading(), "the server reads again")


async def test_unread_responses_do_not_accumulate() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(200):
            client.send_request("/large")
        await site.state.started.wait()
        (connection,) = site.server.connections
        await site.serve_other_requests(300)
        assert connection._transport.get_write_buffer_size() < 20 * MEGABYTE
        for _ in range(200):
            assert len((await client.read_response()).body) == MEGABYTE


async def test_flush_waits_for_a_slow_reader_which_receives_everything() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/large-stream")
        await client.reader.readexactly(1)
        client.pause_reading()
        (connection,) = site.server.connections
        await site.wait_until(lambda: connection._is_writing_paused, "the output buffer is full")
        await site.serve_other_requests()
        assert site.state.written_bytes < 32 * MEGABYTE
        assert connection._transport.get_write_buffer_size() < 2 * MEGABYTE
        client.resume_reading()
        await client.reader.readuntil(b"\r\n\r\n")
        for _ in range(64):
            assert len(await client.read_chunk()) == MEGABYTE
        assert await client.read_chunk() == b""
        client.send_request("/echo")
        assert (await client.read_response()).status == 200


async def test_handler_that_cancelled_a_wait_may_wait_again() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/cancelled-wait")
        await site.state.received.wait()
        response = await client.read_response()
        assert len(response.body) == 32 * MEGABYTE + 3
        await site.state.finished.wait()
        assert site.state.errors == []
