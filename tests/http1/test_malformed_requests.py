"""Input that is not valid HTTP, and heads that are too large."""

from __future__ import annotations

import pytest

from tests.http1.handlers import MEGABYTE
from tests.http1.site import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "malformed",
    [
        "garbage\r\n\r\n",
        "GET\r\n\r\n",
        "GET /echo HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "GET /echo\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Space : 1\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\n: empty\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Nul: a\x00b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: localhost\r\nX-Cr: a\rb\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "GET /echo HTTP/1.1\r\n\r\n",
        "POST /upload HTTP/1.1\r\nContent-Length: 1\r\n\r\nx",
        "GET /echo HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
)
async def test_malformed_request_is_refused_once(malformed: str) -> None:
    async with serving() as site:
        other = await site.connect()
        client = await site.connect()
        client.send(malformed)
        (await client.read_response()).assert_bad_request()
        assert await client.is_at_end()
        await client.close()
        other.send_request("/echo")
        assert (await other.read_response()).status == 200
        assert (await site.fetch("/echo")).status == 200


@pytest.mark.parametrize("size", [70_000, 200_000, 2 * MEGABYTE])
async def test_large_head_is_refused(size: int) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /echo HTTP/1.1\r\nHost: localhost\r\n")
        client.send(f"X-Large: {'x' * size}\r\n\r\n")
        (await client.read_response()).assert_bad_request()
        assert await client.is_at_end()
        await client.close()
        assert (await site.fetch("/echo")).status == 200


async def test_endless_head_is_refused() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /" + "x" * 70_000)
        (await client.read_response()).assert_bad_request()
        assert await client.is_at_end()


async def test_head_of_60_kib_is_accepted() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(3):
            client.send_request("/echo", f"X-Large: {'x' * 60_000}")
            assert (await client.read_response()).status == 200


async def test_malformed_input_after_a_request_does_not_replace_its_response() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /echo HTTP/1.1\r\nHost: localhost\r\n\r\ngarbage\r\n\r\n")
        assert (await client.read_response()).body == b"GET /echo"
        (await client.read_response()).assert_bad_request()
        assert await client.is_at_end()


async def test_malformed_input_while_a_handler_runs_does_not_replace_its_response() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/waiting")
        await site.state.started.wait()
        client.send("garbage\r\n\r\n")
        await site.serve_other_requests()
        site.state.release.set()
        await site.state.finished.wait()
        assert (await client.read_response()).body == b"waitedwaited"


async def test_malformed_chunk_ends_the_request() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/upload", "Transfer-Encoding: chunked", method="POST")
        client.send("1\r\nx\r\n")
        await site.state.received.wait()
        client.send("garbage\r\n")
        # The handler has received a part of the request, but has not answered.
        (await client.read_response()).assert_bad_request()
        assert await client.is_at_end()
        await client.close()
        await site.state.disconnected.wait()
        assert site.state.disconnect_count == 1
