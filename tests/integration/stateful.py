"""What the tests of state serve: the same tools on an `MCPServer`, a low-level `Server` and a FastMCP server."""

# No `from __future__ import annotations`: tools' annotations are resolved at run time.

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import mcp_types as types
from fastmcp import Context, FastMCP
from fastmcp.server.context import _current_transport
from fastmcp.server.dependencies import get_http_headers
from fastmcp.server.middleware import Middleware
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import MCPServer

from mcp_tornado import state


def count(data: dict[str, Any]) -> None:
    data["n"] = data.get("n", 0) + 1


# ---------------------------------------------------------------- in the session


async def bump() -> int:
    return (await state.current().update(count))["n"]


def bump_plain() -> int:
    return state.current().update_sync(count)["n"]


async def peek() -> int:
    return (await state.current().read()).get("n", 0)


def peek_plain() -> int:
    return state.current().read_sync().get("n", 0)


async def snapshot() -> int:
    return state.current().data.get("n", 0)


# ---------------------------------------------------------------- behind a handle


async def start() -> str:
    handle = (await state.create()).handle
    assert handle is not None
    return handle


def start_plain() -> str:
    handle = state.create_sync().handle
    assert handle is not None
    return handle


async def bump_at(handle: str) -> int:
    return (await (await state.open(handle)).update(count))["n"]


def bump_at_plain(handle: str) -> int:
    return state.open_sync(handle).update_sync(count)["n"]


ERRORS = (state.NoSession, state.StateNotFound)


def in_words(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Let a coroutine function answer in words where there is no state."""

    @wraps(tool)
    async def answer(*arguments: Any, **named: Any) -> str:
        try:
            return str(await tool(*arguments, **named))
        except ERRORS as error:
            return str(error)

    return answer


def plain_in_words(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Let a plain function answer in words where there is no state."""

    @wraps(tool)
    def answer(*arguments: Any, **named: Any) -> str:
        try:
            return str(tool(*arguments, **named))
        except ERRORS as error:
            return str(error)

    return answer


ASYNC = [in_words(tool) for tool in (bump, peek, snapshot, start, bump_at)]
PLAIN = [plain_in_words(tool) for tool in (bump_plain, peek_plain, start_plain, bump_at_plain)]

# ---------------------------------------------------------------- the servers

server = MCPServer("stateful")
for function in (*ASYNC, *PLAIN):
    server.tool(structured_output=False)(function)


async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(
        tools=[types.Tool(name=tool.__name__, input_schema={"type": "object"}) for tool in ASYNC]
    )


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    (tool,) = [tool for tool in ASYNC if tool.__name__ == params.name]
    return types.CallToolResult(content=[types.TextContent(type="text", text=await tool(**(params.arguments or {})))])


lowlevel = Server("stateful", on_list_tools=list_tools, on_call_tool=call_tool)

lifespans: dict[str, list[str]] = {"entered": []}


def lifespan(name: str) -> Any:
    @asynccontextmanager
    async def entered(_: FastMCP) -> AsyncGenerator[dict[str, str]]:
        lifespans["entered"].append(name)
        yield {"opened by": name}
        lifespans["entered"].remove(name)

    return entered


watched: list[str] = []


class Watch(Middleware):
    """Notes each message with the transport by which it is said to have come."""

    async def on_message(self, context: Any, call_next: Any) -> Any:
        watched.append(f"{context.method} {context.fastmcp_context.transport}")
        return await call_next(context)


fast = FastMCP("stateful", lifespan=lifespan("outer"), middleware=[Watch()])
mounted = FastMCP("mounted", lifespan=lifespan("inner"))
fast.mount(mounted, namespace="inner")
for function in (*ASYNC, *PLAIN):
    fast.tool(output_schema=None)(function)
mounted.tool(output_schema=None)(bump)


@fast.tool(output_schema=None)
async def lifespans_entered(ctx: Context) -> str:
    return f"{', '.join(lifespans['entered'])}; {ctx.lifespan_context}"


@fast.tool(output_schema=None)
async def http(ctx: Context) -> str:
    request = ctx.request_context.request if ctx.request_context is not None else None
    shown = request.headers["marker"] if request is not None else None
    return f"{ctx.transport} {shown} {get_http_headers()['marker']}"


seen: list[str] = []


async def see(ctx: Any, call_next: Any) -> Any:
    """Note the last message, as a middleware of the SDK's; its transport and request are FastMCP's business."""
    seen[:] = [f"{ctx.method} {_current_transport.get()} {get_http_headers().get('marker')}"]
    return await call_next(ctx)


fast._mcp_server.middleware.insert(0, see)


@fast.tool(output_schema=None)
async def seen_by_middleware() -> str:
    return seen[0]


@fast.tool(output_schema=None)
async def hide(component: str, ctx: Context) -> str:
    try:
        await ctx.disable_components(names={component})
    except RuntimeError as error:
        return f"refused: {error}"
    return "hidden"


@fast.tool(output_schema=None)
async def messages() -> str:
    return ", ".join(watched)
