"""A FastMCP server that asks in several rounds."""

# No `from __future__ import annotations`: FastMCP resolves the annotations of tools at run time.

import mcp_types as types
from fastmcp import Context, FastMCP

fast = FastMCP("asking")


@fast.tool
async def greet(ctx: Context) -> str | types.InputRequiredResult:
    """Ask for a name, then greet."""
    if ctx.request_state is None:
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        question = types.ElicitRequestFormParams(message="Who are you?", requested_schema=schema)
        return types.InputRequiredResult(
            input_requests={"name": types.ElicitRequest(params=question)}, request_state="Hello"
        )
    answer = (ctx.input_responses or {})["name"]
    assert isinstance(answer, types.ElicitResult)
    return f"{ctx.request_state} {(answer.content or {})['name']}"
