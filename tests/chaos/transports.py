"""HTTP transports of the clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, Final

import httpx2
import orjson

from tests.chaos.client_context import (
    CALL_TIMEOUT_SECONDS,
    RETRIED_STATUSES,
    RETRY_INTERVAL_SECONDS,
    ClientContext,
)

_TRANSPORT_ERROR: Final = -32099


@asynccontextmanager
async def open_transport() -> AsyncGenerator[httpx2.AsyncHTTPTransport]:
    """Open the transport whose connections all clients share."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx2.AsyncHTTPTransport(verify=False, limits=limits) as transport:
        yield transport


class SharedTransport(httpx2.AsyncBaseTransport):
    """A transport that other clients use too: closing it does not close the inner transport."""

    def __init__(self, inner: httpx2.AsyncHTTPTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._inner.handle_async_request(request)


class RetryTransport(httpx2.AsyncBaseTransport):
    """The transport of the SDK's client, for an application that expects broken connections.

    Replies, notifications, GET and DELETE are idempotent and sent again. A call whose connection broke before any byte
    of the answer fails with an error, and the session continues. Some streams are cut at random, as networks do.

    Args:
        context: What the clients share.
        random: The client's random generator.
        cut_probability: The probability that a stream is cut.
    """

    def __init__(self, context: ClientContext, random: Random, *, cut_probability: float) -> None:
        self._context = context
        self._random = random
        self._cut_probability = cut_probability
        self.session_id: str | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        message = orjson.loads(await request.aread()) if request.method == "POST" else {}
        if "method" in message and "id" in message:
            return await self._send_call(request, message["id"])
        return await self._send_until_answered(request)

    async def _send_call(self, request: httpx2.Request, request_id: Any) -> httpx2.Response:
        try:
            response = await self._context.http.handle_async_request(request)
        except httpx2.TransportError:
            self._context.observations["calls that failed before any byte"] += 1
            error = {"code": _TRANSPORT_ERROR, "message": "the connection broke"}
            return httpx2.Response(502, json={"jsonrpc": "2.0", "id": request_id, "error": error})
        self.session_id = response.headers.get("mcp-session-id", self.session_id)
        return self._with_cuts(response)

    async def _send_until_answered(self, request: httpx2.Request) -> httpx2.Response:
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            while True:
                try:
                    response = await self._context.http.handle_async_request(request)
                    if response.status_code not in RETRIED_STATUSES:
                        return self._with_cuts(response)
                    await response.aclose()
                except httpx2.TransportError:
                    self._context.observations["requests sent again"] += 1
                await asyncio.sleep(RETRY_INTERVAL_SECONDS)

    def _with_cuts(self, response: httpx2.Response) -> httpx2.Response:
        """Return a response that may be cut, if it is an event stream."""
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            return response
        cut_after = self._random.randint(1, 6) if self._random.random() < self._cut_probability else None
        stream = _CutStream(response.stream, cut_after)
        return httpx2.Response(response.status_code, headers=response.headers, stream=stream)


class _CutStream(httpx2.AsyncByteStream):
    """A stream that ends without an error if its connection breaks, or after `cut_after` chunks."""

    def __init__(self, inner: Any, cut_after: int | None) -> None:
        self._inner = inner
        self._cut_after = cut_after

    async def __aiter__(self) -> AsyncIterator[bytes]:
        count = 0
        with suppress(httpx2.TransportError):
            async for chunk in self._inner:
                yield chunk
                count += 1
                if count == self._cut_after:
                    await self._inner.aclose()
                    return

    async def aclose(self) -> None:
        await self._inner.aclose()
