"""What belongs to one request: context variables, the client's address and the protocol."""

from __future__ import annotations

import json

import pytest

from tests.http1.site import serving

pytestmark = pytest.mark.anyio


async def test_variable_is_not_visible_to_the_next_request() -> None:
    async with serving() as site:
        client = await site.connect()
        for name in "abc":
            client.send_request(f"/variable?name={name}")
            assert (await client.read_response()).body == b"unset"


@pytest.mark.parametrize("count", [3, 100])
async def test_variable_is_not_visible_to_pipelined_requests(count: int) -> None:
    async with serving() as site:
        client = await site.connect()
        requests = [f"GET /variable?name={number} HTTP/1.1\r\nHost: localhost\r\n\r\n" for number in range(count)]
        client.send("".join(requests))
        for _ in range(count):
            assert (await client.read_response()).body == b"unset"
        # With 100 requests the server paused reading, and resumed it after a handler had finished.
        client.send_request("/variable?name=last")
        assert (await client.read_response()).body == b"unset"


async def test_variable_set_in_initialize_is_not_visible_to_the_next_request() -> None:
    async with serving() as site:
        client = await site.connect()
        client.send("GET /early-variable HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        for _ in range(3):
            assert (await client.read_response()).body == b"unset"
        assert (await site.fetch("/early-variable")).body == b"unset"


@pytest.mark.parametrize(
    ("headers", "ip", "protocol"),
    [
        ((), "127.0.0.1", "http"),
        (("X-Forwarded-For: 1.1.1.1, 2.2.2.2",), "2.2.2.2", "http"),
        (("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 3.3.3.3"), "3.3.3.3", "http"),
        (("X-Forwarded-For: 2001:db8::1",), "2001:db8::1", "http"),
        (("X-Forwarded-For: 1.1.1.1", "X-Real-Ip: 4.4.4.4"), "4.4.4.4", "http"),
        (("X-Forwarded-Proto: https",), "127.0.0.1", "https"),
        (("X-Forwarded-Proto: http, https",), "127.0.0.1", "https"),
        (("X-Scheme: https",), "127.0.0.1", "https"),
        (("X-Forwarded-For: 1.1.1.1, garbage",), "127.0.0.1", "http"),
        (("X-Forwarded-For:",), "127.0.0.1", "http"),
        (("X-Forwarded-For: 203.0.113.7:17085",), "203.0.113.7", "http"),
        (("X-Forwarded-For: 1.1.1.1:1, 203.0.113.7:17085",), "203.0.113.7", "http"),
        (("X-Forwarded-For: [2001:db8::1]:17085",), "2001:db8::1", "http"),
        (("X-Forwarded-For: [2001:db8::1]",), "2001:db8::1", "http"),
        (("X-Real-Ip: 203.0.113.7:17085",), "203.0.113.7", "http"),
        (("X-Forwarded-For: 203.0.113.7:",), "127.0.0.1", "http"),
        (("X-Forwarded-For: 203.0.113.999:80",), "127.0.0.1", "http"),
        (("X-Real-Ip: garbage", "X-Forwarded-Proto: gopher"), "127.0.0.1", "http"),
    ],
)
async def test_forwarded_headers_are_used_with_xheaders_only(headers: tuple[str, ...], ip: str, protocol: str) -> None:
    async with serving(xheaders=True) as site:
        assert json.loads((await site.fetch("/origin", *headers)).body) == {"ip": ip, "protocol": protocol}
    async with serving() as site:
        assert json.loads((await site.fetch("/origin", *headers)).body) == {"ip": "127.0.0.1", "protocol": "http"}


async def test_forwarded_headers_apply_to_one_request() -> None:
    async with serving(xheaders=True) as site:
        client = await site.connect()
        client.send_request("/origin", "X-Real-Ip: 4.4.4.4", "X-Scheme: https")
        assert json.loads((await client.read_response()).body) == {"ip": "4.4.4.4", "protocol": "https"}
        client.send_request("/origin")
        assert json.loads((await client.read_response()).body) == {"ip": "127.0.0.1", "protocol": "http"}
