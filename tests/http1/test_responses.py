"""Responses: the framing of bodies, and heads that cannot be sent."""

from __future__ import annotations

import pytest

from tests.http1.site import serving

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/echo", "/chunks"])
async def test_response_to_head_has_no_body(path: str) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request(path, method="HEAD")
        response = await client.read_response(has_body=False)
        assert response.status == 200
        client.send_request("/echo/next")
        assert (await client.read_response()).body == b"GET /echo/next"


async def test_response_204_has_no_body() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/empty")
        response = await client.read_response()
        assert response.status == 204
        assert not {"content-length", "transfer-encoding"} & set(response.headers)
        client.send_request("/echo/next")
        assert (await client.read_response()).body == b"GET /echo/next"


async def test_response_304_has_no_body() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/echo")
        etag = (await client.read_response()).headers["etag"]
        client.send_request("/echo", f"If-None-Match: {etag}")
        assert (await client.read_response()).status == 304
        client.send_request("/echo/next")
        assert (await client.read_response()).body == b"GET /echo/next"


async def test_response_without_content_length_is_chunked() -> None:
    async with serving() as site:
        client = await site.connect()
        for _ in range(2):
            client.send_request("/chunks")
            response = await client.read_response()
            assert response.headers["transfer-encoding"] == "chunked"
            assert response.body == b"onetwothree"


async def test_unknown_path_and_method_are_refused() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/nowhere")
        assert (await client.read_response()).status == 404
        client.send_request("/echo", method="DELETE")
        assert (await client.read_response()).status == 405


async def test_response_shorter_than_its_content_length_closes_the_connection() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/short")
        client.send_request("/echo")
        _, code, headers = await client.read_head()
        assert (code, headers["content-length"]) == (200, "10")
        assert await client.reader.readexactly(5) == b"12345"
        assert await client.reader.read(4) == b""


async def test_header_with_a_line_break_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request("/line-break")
        response = await client.read_response()
        assert response.status == 500
        assert "x-injected" not in response.headers
        client.send_request("/echo")
        assert (await client.read_response()).status == 200
    caplog.clear()


@pytest.mark.parametrize("path", ["/hidden-line-break", "/unencodable-header"])
async def test_head_that_cannot_be_sent_does_not_shift_the_responses(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as site:
        client = await site.connect()
        client.send_request(path)
        client.send_request("/echo")
        # A 500, or a closed connection, but never the response to the other request.
        start = await client.reader.read(12)
        assert start in (b"", b"HTTP/1.1 500")
        assert b"X-Injected" not in await client.reader.read() if not start else True
    caplog.clear()
