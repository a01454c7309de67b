"""A FastMCP server with a tool that takes two rounds of a request."""

# No `from __future__ import annotations`: FastMCP resolves the annotations of tools at run time.

import mcp_types as types
from fastmcp import Context, FastMCP

server = FastMCP("rounds")


@server.tool
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
