"""Stopping the server and closing its connections."""

from __future__ import annotations

import asyncio

import pytest
from tornado.iostream import StreamClosedError

from tests.http1.handlers import MEGABYTE
from tests.http1.site import serving

pytestmark = pytest.mark.anyio


async def test_stop_refuses_new_connections_and_serves_the_open_ones() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/waiting")
        await site.state.started.wait()
        site.server.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", site.port)
        site.state.release.set()
        assert (await client.read_response()).body == b"waitedwaited"
        client.send_request("/echo")
        assert (await client.read_response()).status == 200


async def test_closing_sends_the_pending_output() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/large")
        client.pause_reading()
        await site.state.started.wait()
        (connection,) = site.server.connections
        await site.wait_until(lambda: not connection._exchanges, "the response is written")
        site.server.stop()
        closing = asyncio.create_task(site.server.close_all_connections())
        client.resume_reading()
        assert len((await client.read_response()).body) == MEGABYTE
        assert await client.is_at_end()
        await closing
        assert site.server.connections == set()


async def test_closing_does_not_wait_for_a_client_that_never_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_tornado.http1.server.CLOSE_TIMEOUT_SECONDS", 0.01)
    async with serving() as site:
        client = await site.connect()
        client.send_request("/streaming")
        await client.reader.readexactly(1)
        client.pause_reading()
        (connection,) = site.server.connections
        await site.wait_until(lambda: connection._is_writing_paused, "the output buffer is full")
        site.server.stop()
        await site.server.close_all_connections()
        assert site.server.connections == set()
        await site.state.finished.wait()
        assert site.state.disconnect_count == 1
        assert [type(error) for error in site.state.errors] == [StreamClosedError]


async def test_closing_notifies_the_handlers() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/waiting")
        await site.state.started.wait()
        site.server.stop()
        await site.server.close_all_connections()
        assert site.state.disconnect_count == 1
        assert await client.is_at_end()
        site.state.release.set()
        await site.state.finished.wait()
        assert [type(error) for error in site.state.errors] == [StreamClosedError]


async def test_closing_works_twice_and_without_connections() -> None:
    async with serving() as site:
        await site.server.close_all_connections()
        assert (await site.fetch("/echo")).status == 200
        site.server.stop()
        site.server.stop()
        await site.server.close_all_connections()
        await site.server.close_all_connections()
