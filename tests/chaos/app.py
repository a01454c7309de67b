"""What the chaos suite serves: tools that put the mark they were given into whatever they say."""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

import asyncio
import warnings

from mcp.server.mcpserver import AcceptedElicitation, Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPDeprecationWarning
from pydantic import BaseModel

from mcp_tornado import state

warnings.simplefilter("ignore", MCPDeprecationWarning)  # logging still exists, and most servers use it

PATIENCE = 12
"""Seconds after which a tool no longer waits for the client's answer."""

server = MCPServer("chaos")


class Reply(BaseModel):
    mark: str


@server.tool()
async def echo(mark: str) -> str:
    return mark


@server.tool()
async def wait(mark: str, seconds: float) -> str:
    """Say nothing for a while."""
    await asyncio.sleep(seconds)
    return mark


@server.tool()
async def report(mark: str, steps: int, pause: float, ctx: Context) -> str:
    """Say several things in turn, with pauses."""
    for index in range(steps):
        await ctx.info(f"{mark}.{index}/{steps}")
        await asyncio.sleep(pause)
    return mark


@server.tool()
async def advance(mark: str, steps: int, pause: float, ctx: Context) -> str:
    """The same as progress."""
    for index in range(steps):
        await ctx.report_progress(index, steps, f"{mark}.{index}/{steps}")
        await asyncio.sleep(pause)
    return mark


@server.tool()
async def come_back(mark: str, steps: int, pause: float, ctx: Context) -> str:
    """The same, but close the connection after the first for the client to come back."""
    for index in range(steps):
        await ctx.info(f"{mark}.{index}/{steps}")
        if index == 0:
            await ctx.close_sse_stream()
        await asyncio.sleep(pause)
    return mark


@server.tool()
async def ask(mark: str, times: int, ctx: Context) -> str:
    """Ask the client several things in turn; each answer must be that to its question."""
    for index in range(times):
        question = f"{mark}.{index}/{times}"
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await ctx.elicit(question, Reply)
        except TimeoutError:
            raise ToolError(f"unanswered {question}") from None
        if not isinstance(answer, AcceptedElicitation) or answer.data.mark != question:
            raise ToolError(f"mismatched {question}: {answer}")
    return mark


@server.tool()
async def announce(mark: str, steps: int, ctx: Context) -> str:
    """Say several things on the standalone stream, and one that is the same every time."""
    for index in range(steps):
        await ctx.session.send_resource_updated(f"chaos:///{mark}.{index}/{steps}")
    await ctx.session.send_tool_list_changed()
    return mark


@server.tool()
async def remember(mark: str) -> str:
    """Add the mark to the session's state."""
    await state.current().update(lambda data: data.setdefault("marks", []).append(mark))
    return mark


@server.tool()
async def recall(mark: str) -> str:
    """Return whose marks of which calls are in the session's state, as words such as `0a1b2c3d/9f8e7d6c`."""
    data = await state.current().read()
    return " ".join(each.removeprefix("~").replace(".", "/") for each in data.get("marks", []))
