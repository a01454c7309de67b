"""The same server with a second tool, which asks the client a question while it runs."""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

from typing import Any

from add import server
from mcp.server.mcpserver import AcceptedElicitation, Context
from pydantic import BaseModel

__all__ = ["server"]


class Number(BaseModel):
    number: int


@server.tool()
async def ask(question: str, ctx: Context[Any, Any]) -> int:
    """Ask the client for a number, and return the answer."""
    answer = await ctx.elicit(question, Number)
    return answer.data.number if isinstance(answer, AcceptedElicitation) else -1
