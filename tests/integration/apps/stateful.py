"""Tools that use `mcp_tornado.state`, on an `MCPServer`, a low-level `Server` and a FastMCP server."""

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


def increment(data: dict[str, Any]) -> None:
    data["n"] = data.get("n", 0) + 1


# ---------------------------------------------------------------- state of the session


async def bump() -> int:
    return (await state.current().update(increment))["n"]


def bump_plain() -> int:
    return state.current().update_sync(increment)["n"]


async def peek() -> int:
    return (await state.current().read()).get("n", 0)


def peek_plain() -> int:
    return state.current().read_sync().get("n", 0)


async def snapshot() -> int:
    return state.current().data.get("n", 0)


# ---------------------------------------------------------------- state with a handle


async def start() -> str:
    handle = (await state.create()).handle
    assert handle is not None
    return handle


def start_plain() -> str:
    handle = state.create_sync().handle
    assert handle is not None
    return handle


async def bump_at(handle: str) -> int:
    return (await (await state.open(handle)).update(increment))["n"]


def bump_at_plain(handle: str) -> int:
    return state.open_sync(handle).update_sync(increment)["n"]


ERRORS = (state.NoSession, state.StateNotFound)


def return_errors(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Make a coroutine function return the text of an error of the state."""

    @wraps(tool)
    async def answer(*arguments: Any, **named: Any) -> str:
        try:
            return str(await tool(*arguments, **named))
        except ERRORS as error:
            return str(error)

    return answer


def return_errors_sync(tool: Callable[..., Any]) -> Callable[..., Any]:
    """Make a plain function return the text of an error of the state."""

    @wraps(tool)
    def answer(*arguments: Any, **named: Any) -> str:
        try:
            return str(tool(*arguments, **named))
        except ERRORS as error:
            return str(error)

    return answer


ASYNC_TOOLS = [return_errors(tool) for tool in (bump, peek, snapshot, start, bump_at)]
PLAIN_TOOLS = [return_errors_sync(tool) for tool in (bump_plain, peek_plain, start_plain, bump_at_plain)]

# ---------------------------------------------------------------- the servers

server = MCPServer("stateful")
for function in (*ASYNC_TOOLS, *PLAIN_TOOLS):
    server.tool(structured_output=False)(function)


async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(
        tools=[types.Tool(name=tool.__name__, input_schema={"type": "object"}) for tool in ASYNC_TOOLS]
    )


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    (tool,) = [tool for tool in ASYNC_TOOLS if tool.__name__ == params.name]
    return types.CallToolResult(content=[types.TextContent(type="text", text=await tool(**(params.arguments or {})))])


lowlevel = Server("stateful", on_list_tools=list_tools, on_call_tool=call_tool)

running_lifespans: list[str] = []


def lifespan(name: str) -> Any:
    @asynccontextmanager
    async def run(_: FastMCP) -> AsyncGenerator[dict[str, str]]:
        running_lifespans.append(name)
        yield {"opened by": name}
        running_lifespans.remove(name)

    return run


recorded_messages: list[str] = []


class MessageRecorder(Middleware):
    """Records each message and the transport that FastMCP reports for it."""

    async def on_message(self, context: Any, call_next: Any) -> Any:
        recorded_messages.append(f"{context.method} {context.fastmcp_context.transport}")
        return await call_next(context)


fast = FastMCP("stateful", lifespan=lifespan("outer"), middleware=[MessageRecorder()])
mounted = FastMCP("mounted", lifespan=lifespan("inner"))
fast.mount(mounted, namespace="inner")
for function in (*ASYNC_TOOLS, *PLAIN_TOOLS):
    fast.tool(output_schema=None)(function)
mounted.tool(output_schema=None)(bump)


@fast.tool(output_schema=None)
async def lifespans(ctx: Context) -> str:
    return f"{', '.join(running_lifespans)}; {ctx.lifespan_context}"


@fast.tool(output_schema=None)
async def http_request(ctx: Context) -> str:
    """Return the transport and the header `Marker`, from the SDK's request and from FastMCP's."""
    request = ctx.request_context.request if ctx.request_context is not None else None
    marker = request.headers["marker"] if request is not None else None
    return f"{ctx.transport} {marker} {get_http_headers()['marker']}"


last_message: list[str] = []


async def record_last_message(ctx: Any, call_next: Any) -> Any:
    """Record a message, with the transport and the headers that FastMCP reports to a middleware of the SDK."""
    last_message[:] = [f"{ctx.method} {_current_transport.get()} {get_http_headers().get('marker')}"]
    return await call_next(ctx)


fast._mcp_server.middleware.insert(0, record_last_message)


@fast.tool(output_schema=None)
async def message_in_middleware() -> str:
    return last_message[0]


@fast.tool(output_schema=None)
async def hide(component: str, ctx: Context) -> str:
    try:
        await ctx.disable_components(names={component})
    except RuntimeError as error:
        return f"refused: {error}"
    return "hidden"


@fast.tool(output_schema=None)
async def messages() -> str:
    return ", ".join(recorded_messages)
