"""The MCP server of the chaos suite: each tool puts the mark of its call into everything that it sends."""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

import asyncio
import warnings

from mcp.server.mcpserver import AcceptedElicitation, Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPDeprecationWarning
from pydantic import BaseModel

from mcp_tornado import state

warnings.simplefilter("ignore", MCPDeprecationWarning)  # logging is deprecated, but most servers use it

REPLY_TIMEOUT_SECONDS = 12
"""How long a tool waits for the client's reply to a question."""

server = MCPServer("chaos")


class Reply(BaseModel):
    mark: str


@server.tool()
async def echo(mark: str) -> str:
    return mark


@server.tool()
async def wait(mark: str, seconds: float) -> str:
    """Send nothing for some seconds, then return."""
    await asyncio.sleep(seconds)
    return mark


@server.tool()
async def report(mark: str, steps: int, pause: float, ctx: Context) -> str:
    """Send numbered log messages, with a pause in seconds after each."""
    for index in range(steps):
        await ctx.info(f"{mark}.{index}/{steps}")
        await asyncio.sleep(pause)
    return mark


@server.tool()
async def advance(mark: str, steps: int, pause: float, ctx: Context) -> str:
    """Send numbered progress notifications, with a pause in seconds after each."""
    for index in range(steps):
        await ctx.report_progress(index, steps, f"{mark}.{index}/{steps}")
        await asyncio.sleep(pause)
    return mark


@server.tool()
async def reconnect(mark: str, steps: int, pause: float, ctx: Context) -> str:
    """Send numbered log messages; close the connection after the first one, so that the client reconnects."""
    for index in range(steps):
        await ctx.info(f"{mark}.{index}/{steps}")
        if index == 0:
            await ctx.close_sse_stream()
        await asyncio.sleep(pause)
    return mark


@server.tool()
async def ask(mark: str, times: int, ctx: Context) -> str:
    """Ask the client several questions, one after the other; each reply must repeat its question."""
    for index in range(times):
        question = f"{mark}.{index}/{times}"
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                answer = await ctx.elicit(question, Reply)
        except TimeoutError:
            raise ToolError(f"unanswered {question}") from None
        if not isinstance(answer, AcceptedElicitation) or answer.data.mark != question:
            raise ToolError(f"mismatched {question}: {answer}")
    return mark


@server.tool()
async def announce(mark: str, steps: int, ctx: Context) -> str:
    """Send numbered updates on the standalone stream, and one notification without a mark."""
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
    """Return the marks in the session's state, separated by spaces: `0a1b2c3d/9f8e7d6c` is owner and call."""
    data = await state.current().read()
    return " ".join(each.removeprefix("~").replace(".", "/") for each in data.get("marks", []))
