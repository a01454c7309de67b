"""A small server that demonstrates sessions; `mcp-tornado serve` without an argument serves it."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Final

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel, Field

from mcp_tornado import state

server = MCPServer(
    "mcp-tornado-demo",
    title="mcp-tornado demo",
    instructions="Try count, countdown, order and research: each demonstrates a use of sessions.",
    version="1",
)

_sessionless_calls: Final = itertools.count(1)


@server.tool()
async def echo(text: str) -> str:
    """Return the text."""
    return text


@server.tool()
async def count() -> int:
    """Count the calls of this session, in all processes; calls without a session share one counter."""
    try:
        session = state.current()
    except state.NoSession:
        return next(_sessionless_calls)
    data = await session.update(lambda data: data.update(count=data.get("count", 0) + 1))
    return int(data["count"])


@server.tool()
async def countdown(ctx: Context[Any, Any], steps: int = 3, seconds: float = 0.2) -> str:
    """Report progress at every step, then finish."""
    for step in range(1, steps + 1):
        await asyncio.sleep(seconds)
        await ctx.report_progress(step, steps, f"step {step} of {steps}")
    return f"{steps} steps done"


class Quantity(BaseModel):
    """The answer that `order` asks the user for."""

    quantity: int = Field(description="How many?", ge=1, le=100)


@server.tool()
async def order(item: str, ctx: Context[Any, Any]) -> str:
    """Ask the user for the quantity, in the middle of the call."""
    answer = await ctx.elicit(f"How many of {item}?", Quantity)
    if answer.action != "accept":
        return f"no {item} ordered"
    return f"{answer.data.quantity} of {item} ordered"


@server.tool()
async def research(topic: str, seconds: float = 60.0) -> str:
    """Run long enough to be aborted."""
    await asyncio.sleep(seconds)
    return f"all there is to know about {topic}"


@server.resource("demo://about")
def about() -> str:
    """Describe this server."""
    return "A demonstration of mcp-tornado."


@server.prompt()
def introduce(name: str) -> str:
    """Ask a model to introduce a person."""
    return f"Introduce {name} in one sentence."
