"""A FastMCP server that uses every kind of state that FastMCP keeps for its clients, with mounted servers."""

# No `from __future__ import annotations`: tools' annotations are resolved at run time.

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import mcp_types as types
from fastmcp import Context, FastMCP
from fastmcp.server.dependencies import get_session
from fastmcp.server.middleware import Middleware
from fastmcp.server.sessions import SessionId, SessionProvider
from key_value.aio.stores.memory import MemoryStore

from mcp_tornado import state

WAIT_SECONDS = 60
"""How long a tool waits for a file."""


class StateMiddleware(Middleware):
    """Stores the client of the handshake and the logging level, and passes values to the called tool."""

    async def on_initialize(self, context: Any, call_next: Any) -> Any:
        ctx = context.fastmcp_context
        client = {"name": context.message.params.client_info.name, "session": ctx.session_id}
        await ctx.set_state("client", client)
        return await call_next(context)

    async def on_message(self, context: Any, call_next: Any) -> Any:
        if context.method == "logging/setLevel":
            await state.current().update(lambda data: data.update(level=context.message["level"]))
        return await call_next(context)

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        await context.fastmcp_context.set_state("called", context.message.name, serializable=False)
        if context.message.name == "middleware_values":
            await context.fastmcp_context.set_state("by middleware", os.getpid())
        return await call_next(context)


@asynccontextmanager
async def lifespan(_: FastMCP) -> AsyncGenerator[dict[str, str]]:
    yield {"from": "the lifespan"}


async def put(key: str, value: Any, ctx: Context) -> int:
    """Store a value and return the process id."""
    await ctx.set_state(key, value)
    return os.getpid()


async def get(key: str, ctx: Context) -> Any:
    return {"value": await ctx.get_state(key)}


async def delete(key: str, ctx: Context) -> None:
    await ctx.delete_state(key)


async def hide(component: str, ctx: Context) -> str:
    try:
        await ctx.disable_components(names={component})
    except RuntimeError as error:
        return f"refused: {error}"
    return "hidden"


async def show(component: str, ctx: Context) -> str:
    await ctx.enable_components(names={component})
    return "shown"


STATE_TOOLS = (put, get, delete, hide, show)

fast = FastMCP("fast", middleware=[StateMiddleware()], lifespan=lifespan)
named, nested, *unnamed = FastMCP("named"), FastMCP("nested"), FastMCP(), FastMCP()
late = FastMCP("late")
own_store = FastMCP("own", session_state_store=MemoryStore())
for server in (fast, named, nested, *unnamed, late, own_store):
    for tool in STATE_TOOLS:
        server.tool(tool)
fast.mount(named, namespace="named")
named.mount(nested, namespace="nested")
for number, server in enumerate(unnamed):
    fast.mount(server, namespace=f"unnamed{number}")
fast.add_provider(SessionProvider())

fast.tool(lambda: "once", name="twice")
fast.tool(lambda: "twice", name="twice")  # FastMCP logs a warning for this while the file is imported


@fast.tool
async def reset(ctx: Context) -> str:
    await ctx.reset_visibility()
    return "reset"


@fast.tool
async def hide_both(first: str, second: str, ctx: Context) -> str:
    await asyncio.gather(ctx.disable_components(names={first}), ctx.disable_components(names={second}))
    return "hidden"


@fast.tool
async def middleware_values(ctx: Context) -> str:
    return f"{await ctx.get_state('called')} {await ctx.get_state('by middleware') == os.getpid()}"


@fast.tool
async def session_of(ctx: Context) -> str:
    return ctx.session_id


@fast.tool
async def mount_late() -> str:
    fast.mount(late, namespace="late")
    return "mounted"


@fast.tool
async def add_tool(name: str, ctx: Context) -> str:
    fast.tool(lambda: name, name=name)
    await ctx.send_notification(types.ToolListChangedNotification())
    return "added"


@fast.tool
async def both_states(ctx: Context) -> Any:
    """Store a value in FastMCP's state and in mcp-tornado's, clear the latter, and return what each holds."""
    await ctx.set_state("n", 1)
    await state.current().update(lambda data: data.update(n=2))
    before = await state.current().read()
    await state.current().update(dict.clear)
    return {"before": before, "fastmcp": await ctx.get_state("n"), "ours": await state.current().read()}


@fast.tool
async def put_on_request(started: str, proceed: str, ctx: Context) -> str:
    """Create the file `started`, wait for the file `proceed`, and store a value."""
    Path(started).touch()
    async with asyncio.timeout(WAIT_SECONDS):
        while not Path(proceed).exists():
            await asyncio.sleep(0.02)
    await ctx.set_state("late", 1)
    return "put"


@fast.tool
async def note(session_id: SessionId, text: str) -> Any:
    """Add a note to a session of FastMCP's own kind, which the tool gets by its id."""
    session = await get_session(session_id)
    await session.set("notes", [*(await session.get("notes", [])), text])
    return {"notes": await session.get("notes"), "by": os.getpid()}


@fast.tool
async def log(text: str, ctx: Context) -> None:
    await ctx.debug(f"debug {text}")
    await ctx.info(f"info {text}")
    await ctx.warning(f"warning {text}", extra={"pid": os.getpid()})


@fast.tool
async def ask(ctx: Context) -> str:
    answer = await ctx.elicit("How many?", int)
    return f"{answer.action} {getattr(answer, 'data', None)}"


@fast.tool
async def report_steps(ctx: Context) -> dict[str, str]:
    for step in range(3):
        await ctx.report_progress(step, 3)
    return ctx.lifespan_context


@fast.tool
async def greet(ctx: Context) -> str | types.InputRequiredResult:
    """Ask for a name in the way of the stateless era, and return whether the second round is in another process."""
    if ctx.request_state is None:
        schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        question = types.ElicitRequestFormParams(message="Who are you?", requested_schema=schema)
        return types.InputRequiredResult(
            input_requests={"name": types.ElicitRequest(params=question)}, request_state=str(os.getpid())
        )
    answer = (ctx.input_responses or {})["name"]
    assert isinstance(answer, types.ElicitResult)
    return f"{(answer.content or {})['name']} {ctx.request_state != str(os.getpid())}"


@fast.tool
async def accident() -> None:
    raise ZeroDivisionError("an accident")


@fast.resource("memo://{name}")
async def memo(name: str, ctx: Context) -> str:
    return f"{name}: {await ctx.get_state(name)}"


@fast.resource("memo://fixed/list")
async def fixed() -> str:
    return "fixed"


@fast.prompt
async def remember(name: str, ctx: Context) -> str:
    return f"Remember {name}: {await ctx.get_state(name)}"
