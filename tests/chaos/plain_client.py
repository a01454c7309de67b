"""Clients that use `/mcp/session`, `/mcp/send`, `/mcp/receive` and `/mcp/abort`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from random import Random
from typing import Any

import httpx2
import orjson

from tests.chaos.client_context import (
    ACCEPT,
    ANSWER_TIMEOUT_SECONDS,
    CALL_TIMEOUT_SECONDS,
    RETRIED_STATUSES,
    RETRY_INTERVAL_SECONDS,
    ClientContext,
    describe_error,
)
from tests.chaos.marks import Mark, new_name
from tests.chaos.transports import SharedTransport


class PlainClient:
    """A user of the plain routes, who opens one session after the other and acts in each of them."""

    def __init__(self, context: ClientContext, random: Random) -> None:
        self._context = context
        self._random = random
        self._open_requests: set[str] = set()
        """The ids of requests that may have been accepted and have no answer yet."""

    async def run(self) -> None:
        """Use sessions until the clients are to finish."""
        while not self._context.stop.is_set():
            try:
                self._open_requests.clear()
                transport = SharedTransport(self._context.http)
                async with httpx2.AsyncClient(transport=transport, timeout=2 * CALL_TIMEOUT_SECONDS) as http:
                    await self._use_session(http)
            except Exception as error:  # a failed client is replaced by a new one
                self._context.observations[f"plain clients that failed: {describe_error(error)}"] += 1
                await self._context.pause(self._random)

    async def _use_session(self, http: httpx2.AsyncClient) -> None:
        owner = new_name(self._random)
        params = {"clientInfo": {"name": f"~{owner}.00000000", "version": "1"}, "capabilities": {"elicitation": {}}}
        created = await self._send_until_answered(http, "POST", "/session", params)
        http.headers["Mcp-Session-Id"] = created.headers["Mcp-Session-Id"]
        receiving = asyncio.create_task(self._receive(http))
        try:
            for _ in range(self._random.randint(6, 30)):
                await self._context.pause(self._random)
                if self._context.stop.is_set():
                    await self._wait_for_answers(receiving)
                    return
                await self._act(http, owner)
            await self._send_until_answered(http, "DELETE", "")
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _wait_for_answers(self, receiving: asyncio.Task[None]) -> None:
        """Wait until every accepted request is answered, or receiving has failed.

        The audit finds the requests that are still open at the deadline.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                while self._open_requests and not receiving.done():
                    await asyncio.sleep(RETRY_INTERVAL_SECONDS)

    async def _act(self, http: httpx2.AsyncClient, owner: str) -> None:
        """Call a random tool in the background; abort some of the calls that wait."""
        tools: Mapping[str, dict[str, Any]] = {
            "echo": {},
            "report": {"steps": self._random.randint(1, 8), "pause": self._random.uniform(0, 0.3)},
            "ask": {"times": self._random.randint(1, 2)},
            "announce": {"steps": self._random.randint(1, 5)},
            "wait": {"seconds": self._random.uniform(0.2, 8)},
            "remember": {},
        }
        tool = self._random.choice(list(tools))
        call = new_name(self._random)
        arguments = {"mark": str(Mark(owner, call)), **tools[tool]}
        message = {
            "jsonrpc": "2.0",
            "id": call,
            "method": "tools/call",
            "params": {"name": tool, "arguments": arguments},
        }
        self._open_requests.add(call)
        try:
            response = await http.post(f"{self._context.url}/send", json=message)
            if response.status_code != 202:
                self._open_requests.discard(call)
            if tool == "wait" and self._random.random() < 0.5:
                await self._context.pause(self._random)
                await http.post(f"{self._context.url}/abort", json={"requestId": call, "reason": "enough"})
        except httpx2.TransportError:
            self._open_requests.discard(call)
            self._context.observations["plain requests that failed"] += 1

    async def _receive(self, http: httpx2.AsyncClient) -> None:
        """Read all events, by polls and streams at random, and reply to questions; runs until it is cancelled."""
        after: str | None = None
        while True:
            try:
                async with aclosing(self._read_events(http, after)) as events:
                    async for event_id, message in events:
                        after = event_id
                        self._open_requests.discard(message.get("id", ""))
                        if message.get("method") == "elicitation/create":
                            await self._reply(http, message)
            except httpx2.TransportError:
                self._context.observations["requests sent again"] += 1
            await asyncio.sleep(RETRY_INTERVAL_SECONDS)

    async def _read_events(self, http: httpx2.AsyncClient, after: str | None) -> AsyncGenerator[tuple[str, Any]]:
        url, query = f"{self._context.url}/receive", {"after": after} if after is not None else {}
        if self._random.random() < 0.3:
            async with http.stream("GET", url, params=query, headers={"Accept": "text/event-stream"}) as response:
                if response.status_code != 200:
                    return
                source = httpx2.EventSource(response)
                async for event in source:
                    yield event.id, orjson.loads(event.data)
                    if self._random.random() < 0.2:
                        return
            return
        response = await http.get(url, params={**query, "wait": "5"})
        if response.status_code == 200:
            for event in response.json()["events"]:
                yield event["id"], event["message"]

    async def _reply(self, http: httpx2.AsyncClient, question: dict[str, Any]) -> None:
        result = {"action": "accept", "content": {"mark": question["params"]["message"]}}
        reply = {"jsonrpc": "2.0", "id": question["id"], "result": result}
        await self._send_until_answered(http, "POST", "/send", reply)

    async def _send_until_answered(
        self, http: httpx2.AsyncClient, method: str, path: str, body: Any = None
    ) -> httpx2.Response:
        """Send an idempotent request until it is answered."""
        async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
            while True:
                try:
                    response = await http.request(method, self._context.url + path, json=body, headers=ACCEPT)
                    if response.status_code not in RETRIED_STATUSES:
                        return response
                except httpx2.TransportError:
                    self._context.observations["requests sent again"] += 1
                await asyncio.sleep(RETRY_INTERVAL_SECONDS)
