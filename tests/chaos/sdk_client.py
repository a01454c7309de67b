"""Clients that use the client of the official SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from random import Random
from typing import Any

import anyio
import httpx2
import mcp_types as types
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.chaos.check_answers import LONG_CALL_SECONDS
from tests.chaos.client_context import CALL_TIMEOUT_SECONDS, ClientContext, describe_error
from tests.chaos.marks import Mark, new_name
from tests.chaos.transports import RetryTransport


class SDKClient:
    """A user of the official client, who opens one session after the other and acts in each of them."""

    def __init__(self, context: ClientContext, random: Random) -> None:
        self._context = context
        self._random = random
        self._owner = ""

    async def run(self) -> None:
        """Use sessions until the clients are to finish."""
        while not self._context.stop.is_set():
            try:
                await self._use_session()
            except Exception as error:  # a failed client is replaced by a new one
                self._context.observations[f"clients that failed: {describe_error(error)}"] += 1
                await self._context.pause(self._random)

    async def _use_session(self) -> None:
        self._owner = new_name(self._random)
        transport = RetryTransport(self._context, self._random, cut_probability=0.15)
        async with httpx2.AsyncClient(transport=transport, timeout=2 * CALL_TIMEOUT_SECONDS) as http:
            connection = streamable_http_client(self._context.url, http_client=http, terminate_on_close=False)
            async with Client(
                connection,
                mode="legacy",
                read_timeout_seconds=CALL_TIMEOUT_SECONDS,
                client_info=types.Implementation(name=f"~{self._owner}.00000000", version="1"),
                elicitation_callback=self._reply,
                logging_callback=_ignore_log,
            ) as client:
                for _ in range(self._random.randint(6, 30)):
                    await self._context.pause(self._random)
                    if self._context.stop.is_set():
                        return
                    await self._act(client)
                await self._end_session(client, http, transport)

    async def _end_session(self, client: Client, http: httpx2.AsyncClient, transport: RetryTransport) -> None:
        """End the session while some calls may still run."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._random.randint(0, 2)):
                tasks.create_task(self._act(client))
            if self._random.random() < 0.5:
                tasks.create_task(self._ignore_errors(self._call(client, "wait", seconds=2 * LONG_CALL_SECONDS)))
            await self._context.pause(self._random)
            headers = {"Mcp-Session-Id": transport.session_id or ""}
            await http.delete(self._context.url, headers=headers)

    async def _reply(self, _: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"mark": params.message})

    async def _act(self, client: Client) -> None:
        """Do one random action."""
        weights = {
            self._echo: 5,
            self._remember: 5,
            self._report: 4,
            self._advance: 2,
            self._ask: 4,
            self._reconnect: 3,
            self._announce: 3,
            self._wait: 2,
            self._cancel: 2,
            self._call_three_tools: 2,
        }
        action = self._random.choices(list(weights), list(weights.values()))[0]
        try:
            await action(client)
        except MCPError as error:
            self._context.observations[f"calls that failed: {error.error.code} {error.error.message[:60]}"] += 1

    async def _call(self, client: Client, tool: str, **arguments: Any) -> None:
        """Call a tool and check that its result and its progress carry the mark of the call."""
        mark = str(Mark(self._owner, new_name(self._random)))

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            if mark not in (message or ""):
                self._context.wrong_results.append(f"{mark} got the progress message {message}")

        result = await client.call_tool(
            tool, {"mark": mark, **arguments}, progress_callback=on_progress if tool == "advance" else None
        )
        text = result.content[0].text if isinstance(result.content[0], types.TextContent) else ""
        if result.is_error:
            self._context.observations[f"tools that failed: {text.partition('~')[0][:80]}"] += 1
        elif text != mark:
            self._context.wrong_results.append(f"{mark} was answered with {text}")

    async def _echo(self, client: Client) -> None:
        await self._call(client, "echo")

    async def _remember(self, client: Client) -> None:
        await self._call(client, "remember")

    async def _report(self, client: Client) -> None:
        await self._call(client, "report", steps=self._random.randint(1, 12), pause=self._random.uniform(0, 0.3))

    async def _advance(self, client: Client) -> None:
        await self._call(client, "advance", steps=self._random.randint(1, 12), pause=self._random.uniform(0, 0.3))

    async def _ask(self, client: Client) -> None:
        await self._call(client, "ask", times=self._random.randint(1, 3))

    async def _reconnect(self, client: Client) -> None:
        await self._call(client, "reconnect", steps=self._random.randint(2, 8), pause=self._random.uniform(0, 0.4))

    async def _announce(self, client: Client) -> None:
        await self._call(client, "announce", steps=self._random.randint(1, 5))

    async def _wait(self, client: Client) -> None:
        await self._call(client, "wait", seconds=self._random.uniform(0.3, 2.5))

    async def _cancel(self, client: Client) -> None:
        with anyio.move_on_after(self._random.uniform(0.1, 1.5)):
            await self._call(client, "wait", seconds=LONG_CALL_SECONDS)

    async def _call_three_tools(self, client: Client) -> None:
        """Call three tools at once."""
        async with asyncio.TaskGroup() as tasks:
            actions = [self._echo, self._report, self._wait, self._announce, self._remember, self._remember]
            for action in self._random.sample(actions, 3):
                tasks.create_task(self._ignore_errors(action(client)))

    async def _ignore_errors(self, call: Awaitable[None]) -> None:
        with suppress(MCPError):
            await call


async def _ignore_log(_: Any) -> None:
    """Accept a log message; the proxy has recorded it."""
