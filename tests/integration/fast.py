"""A FastMCP server with all that FastMCP keeps for its clients, and servers mounted in it."""

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


class Greeter(Middleware):
    """Keeps who shook hands, in which session, and which level was set; hands something to the tool."""

    async def on_initialize(self, context: Any, call_next: Any) -> Any:
        ctx = context.fastmcp_context
        await ctx.set_state("greeted", {"name": context.message.params.client_info.name, "in": ctx.session_id})
        return await call_next(context)

    async def on_message(self, context: Any, call_next: Any) -> Any:
        if context.method == "logging/setLevel":
            await state.current().update(lambda data: data.update(level=context.message["level"]))
        return await call_next(context)

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        await context.fastmcp_context.set_state("called", context.message.name, serializable=False)
        if context.message.name == "handed_on":
            await context.fastmcp_context.set_state("by middleware", os.getpid())
        return await call_next(context)


@asynccontextmanager
async def lifespan(_: FastMCP) -> AsyncGenerator[dict[str, str]]:
    yield {"from": "the lifespan"}


async def put(key: str, value: Any, ctx: Context) -> int:
    """Keep something; returns which process does."""
    await ctx.set_state(key, value)
    return os.getpid()


async def look(key: str, ctx: Context) -> Any:
    return {"value": await ctx.get_state(key)}


async def drop(key: str, ctx: Context) -> None:
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


KEEPING = (put, look, drop, hide, show)

fast = FastMCP("fast", middleware=[Greeter()], lifespan=lifespan)
named, nested, *unnamed = FastMCP("named"), FastMCP("nested"), FastMCP(), FastMCP()
late = FastMCP("late")
own = FastMCP("own", session_state_store=MemoryStore())
for server in (fast, named, nested, *unnamed, late, own):
    for tool in KEEPING:
        server.tool(tool)
fast.mount(named, namespace="named")
named.mount(nested, namespace="nested")
for number, server in enumerate(unnamed):
    fast.mount(server, namespace=f"unnamed{number}")
fast.add_provider(SessionProvider())

fast.tool(lambda: "once", name="twice")
fast.tool(lambda: "twice", name="twice")  # of which FastMCP warns while the file is imported


@fast.tool
async def reset(ctx: Context) -> str:
    await ctx.reset_visibility()
    return "reset"


@fast.tool
async def hide_both(first: str, second: str, ctx: Context) -> str:
    await asyncio.gather(ctx.disable_components(names={first}), ctx.disable_components(names={second}))
    return "hidden"


@fast.tool
async def handed_on(ctx: Context) -> str:
    return f"{await ctx.get_state('called')} {await ctx.get_state('by middleware') == os.getpid()}"


@fast.tool
async def session_of(ctx: Context) -> str:
    return ctx.session_id


@fast.tool
async def mount_late() -> str:
    fast.mount(late, namespace="late")
    return "mounted"


@fast.tool
async def grow(name: str, ctx: Context) -> str:
    fast.tool(lambda: name, name=name)
    await ctx.send_notification(types.ToolListChangedNotification())
    return "grown"


@fast.tool
async def beside(ctx: Context) -> Any:
    """Keep something both ways, and look at what the one sees and does of the other."""
    await ctx.set_state("n", 1)
    await state.current().update(lambda data: data.update(n=2))
    seen = await state.current().read()
    await state.current().update(dict.clear)
    return {"seen": seen, "fastmcp": await ctx.get_state("n"), "ours": await state.current().read()}


@fast.tool
async def put_later(begun: str, go_on: str, ctx: Context) -> str:
    Path(begun).touch()
    while not Path(go_on).exists():
        await asyncio.sleep(0.02)
    await ctx.set_state("late", 1)
    return "put"


@fast.tool
async def note(session_id: SessionId, text: str) -> Any:
    """Note something in a session of FastMCP's own."""
    session = await get_session(session_id)
    await session.set("notes", [*(await session.get("notes", [])), text])
    return {"notes": await session.get("notes"), "by": os.getpid()}


@fast.tool
async def say(text: str, ctx: Context) -> None:
    await ctx.debug(f"debug {text}")
    await ctx.info(f"info {text}")
    await ctx.warning(f"warning {text}", extra={"pid": os.getpid()})


@fast.tool
async def ask(ctx: Context) -> str:
    answer = await ctx.elicit("How many?", int)
    return f"{answer.action} {getattr(answer, 'data', None)}"


@fast.tool
async def steps(ctx: Context) -> dict[str, str]:
    for step in range(3):
        await ctx.report_progress(step, 3)
    return ctx.lifespan_context


@fast.tool
async def greet(ctx: Context) -> str | types.InputRequiredResult:
    """Ask for a name as the stateless era does, then greet."""
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
