"""Clients that close their sending side after a request, as `nc -N` does, and wait for the answer."""

from __future__ import annotations

import asyncio

import pytest

from tests.http1.site import serving

pytestmark = pytest.mark.anyio


async def test_an_answer_that_is_ready_is_sent() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/echo")
        client.writer.write_eof()
        response = await client.read_response()
        assert response.status == 200
        assert await client.is_at_end()
        assert site.state.disconnect_count == 0
        await site.wait_until_no_connections()


async def test_an_answer_that_becomes_ready_soon_is_sent() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/waiting")
        client.writer.write_eof()
        await site.state.started.wait()
        asyncio.get_running_loop().call_later(0.3, site.state.release.set)
        assert (await client.read_response()).status == 200
        assert await client.is_at_end()
        assert site.state.disconnect_count == 0


async def test_several_requests_are_answered() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(3):
            client.send_request("/echo")
        client.writer.write_eof()
        for _ in range(3):
            assert (await client.read_response()).status == 200
        assert await client.is_at_end()


async def test_a_large_answer_is_sent_whole() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/large")
        client.writer.write_eof()
        await asyncio.sleep(1.2)  # longer than the server waits for an answer
        assert len((await client.read_response()).body) > 100_000
        assert await client.is_at_end()


async def test_a_slow_handler_learns_of_the_disconnect_after_a_second() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/waiting")
        loop = asyncio.get_running_loop()
        client.writer.write_eof()
        began_at = loop.time()
        await site.state.disconnected.wait()
        assert 0.9 < loop.time() - began_at < 10
        assert await client.is_at_end()
        site.state.release.set()
        await site.state.finished.wait()
        assert site.state.disconnect_count == 1


async def test_an_event_stream_ends_at_once() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/events")
        await client.read_head()
        await client.read_chunk()
        began_at = asyncio.get_running_loop().time()
        client.writer.write_eof()
        await site.state.disconnected.wait()
        assert asyncio.get_running_loop().time() - began_at < 0.9
        await site.wait_until_no_connections()


async def test_a_request_that_becomes_an_event_stream_ends_then() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/events?wait=0.2")
        client.writer.write_eof()
        began_at = asyncio.get_running_loop().time()
        await site.state.disconnected.wait()
        assert 0.1 < asyncio.get_running_loop().time() - began_at < 0.9
        assert await client.is_at_end()


@pytest.mark.parametrize("sent", ["POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", "GET /ec", ""])
async def test_a_part_of_a_request_is_a_disconnect(sent: str) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send(sent)
        client.writer.write_eof()
        assert await client.is_at_end()
        await site.wait_until_no_connections()


async def test_whole_requests_before_a_part_of_one_are_answered() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/echo")
        client.send("POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        client.writer.write_eof()
        assert (await client.read_response()).status == 200
        assert await client.is_at_end()
