"""A low-level server: pages of a list, and a logging level and subscriptions for each session."""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

from collections import defaultdict
from typing import Any

import mcp_types as types
from mcp.server.lowlevel.server import Server

PAGES: dict[str | None, tuple[str, str | None]] = {
    None: ("first", "page-2"),
    "page-2": ("second", "page-3"),
    "page-3": ("third", None),
}
"""The tool on each page and the cursor of the next page, by the cursor of the page."""
levels: dict[str, str] = {}
subscribed: defaultdict[str, set[str]] = defaultdict(set)


def session_key(ctx: Any) -> str:
    return ctx.request.headers.get("mcp-session-id", "none")


async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    name, next_cursor = PAGES[params.cursor if params is not None else None]
    tool = types.Tool(name=name, input_schema={"type": "object"})
    return types.ListToolsResult(tools=[tool], next_cursor=next_cursor)


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    if params.name == "update":
        for uri in sorted(subscribed[session_key(ctx)]):
            await ctx.session.send_resource_updated(uri)
    text = {
        "first": str(params.arguments),
        "level": levels.get(session_key(ctx), "none"),
        "subscriptions": " ".join(sorted(subscribed[session_key(ctx)])),
    }.get(params.name, "")
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


async def subscribe(ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
    subscribed[session_key(ctx)].add(str(params.uri))
    return types.EmptyResult()


async def unsubscribe(ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    subscribed[session_key(ctx)].discard(str(params.uri))
    return types.EmptyResult()


async def set_level(ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
    levels[session_key(ctx)] = params.level
    return types.EmptyResult()


server = Server(
    "lowlevel",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
    on_set_logging_level=set_level,
)
