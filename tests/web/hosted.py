"""The MCP server that the application under test hosts."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from tests.web.waiting import wait_for_event


class Quantity(BaseModel):
    """The answer that the tool `ask` wants."""

    quantity: int


class Hosted:
    """A small MCP server, and the events by which a test controls its tools."""

    def __init__(self) -> None:
        self.server = MCPServer("tests", version="1")
        self.release = asyncio.Event()
        """Set by the test: the tool `wait` returns."""
        self.outcomes: list[str] = []
        """How the calls of `wait` and `chatter` have ended."""
        self._started = asyncio.Event()
        self._ended = asyncio.Event()

        @self.server.tool()
        async def echo(text: str) -> str:
            return text

        @self.server.tool()
        async def steps(ctx: Context[Any, Any]) -> str:
            await ctx.report_progress(1, 2, "half")
            await ctx.report_progress(2, 2, "whole")
            return "done"

        @self.server.tool()
        async def wait() -> str:
            self._started.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self._end("cancelled")
                raise
            self._end("released")
            return "released"

        @self.server.tool()
        async def ask(ctx: Context[Any, Any]) -> str:
            answer = await ctx.elicit("How many?", Quantity)
            return f"{answer.action} {answer.data.quantity if answer.action == 'accept' else ''}".strip()

        @self.server.tool()
        async def chatter(ctx: Context[Any, Any]) -> str:
            """Send more messages than are queued for a client that does not read."""
            for number in range(200):
                await ctx.report_progress(number)
            self._end("chattered")
            return "done"

        @self.server.tool()
        async def fail() -> str:
            raise ValueError("a secret in a message")

        @self.server.tool()
        async def huge(ctx: Context[Any, Any], stream: bool) -> dict[str, Any]:
            if stream:
                await ctx.report_progress(1, 1)
            return {"number": 2**70}

    def _end(self, outcome: str) -> None:
        self.outcomes.append(outcome)
        self._ended.set()

    async def wait_until_started(self) -> None:
        """Wait until a call of the tool `wait` runs."""
        await wait_for_event(self._started, "a call of the tool `wait` runs")

    async def wait_until_ended(self) -> None:
        """Wait until a call of `wait` or `chatter` has ended."""
        await wait_for_event(self._ended, "a call of `wait` or `chatter` has ended")
