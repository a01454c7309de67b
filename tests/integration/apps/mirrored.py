"""A low-level server whose tools mirror arguments in headers, and whose names contain non-ASCII characters."""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

from typing import Any

import mcp_types as types
from mcp.server.lowlevel.server import Server

NON_ASCII_NAME = "grüß Gott"
"""The name of a tool, of a prompt and, in its URI, of a resource."""


def mirrored(kind: str, header: str) -> dict[str, str]:
    return {"type": kind, "x-mcp-header": header}


SCHEMAS: dict[str, dict[str, Any]] = {
    "forecast": {
        "region": mirrored("string", "Region"),
        "days": mirrored("integer", "Days"),
        "hourly": mirrored("boolean", "Hourly"),
        "place": {"type": "object", "properties": {"city": mirrored("string", "City")}},
        "text": {"type": "string"},
    },
    # Clients ignore such a tool: an argument of type `number` cannot be mirrored.
    "badly_annotated": {"ratio": mirrored("number", "Ratio")},
    "revision": {},
    NON_ASCII_NAME: {},
}


async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(
        tools=[
            types.Tool(name=name, input_schema={"type": "object", "properties": properties})
            for name, properties in SCHEMAS.items()
        ]
    )


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    text = ctx.session.protocol_version if params.name == "revision" else "called"
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


async def get_prompt(ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    content = types.TextContent(type="text", text=params.name)
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])


async def read_resource(ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    return types.ReadResourceResult(contents=[types.TextResourceContents(uri=params.uri, text="read")])


server = Server(
    "mirrored",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_get_prompt=get_prompt,
    on_read_resource=read_resource,
)
