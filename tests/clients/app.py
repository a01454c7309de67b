"""What the clients are connected to: one of each thing that a client can ask a server for."""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import mcp_types as types
from mcp.server.mcpserver import AcceptedElicitation, Context, Elicit, ElicitationResult, MCPServer, Resolve, Sample
from pydantic import BaseModel

gates: list[asyncio.Event] = []


def closed_gate() -> asyncio.Event:
    gates.append(asyncio.Event())
    return gates[-1]


def open_gates() -> None:
    for gate in gates:
        gate.set()


@asynccontextmanager
async def lifespan(_: MCPServer) -> AsyncGenerator[None]:
    """Open the gates on SIGUSR1: a process that drains takes no call which could."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, open_gates)
    yield
    loop.remove_signal_handler(signal.SIGUSR1)


server = MCPServer("clients", version="1", lifespan=lifespan)
subscribed: defaultdict[str, set[str]] = defaultdict(set)
"""The resources that a session of the handshake era follows, by its key."""


def key_of(ctx: Context) -> str:
    return (ctx.headers or {})["mcp-session-id"]


# ---------------------------------------------------------------- tools


class Weather(BaseModel):
    city: str
    celsius: float


@server.tool()
async def weather(city: str) -> Weather:
    return Weather(city=city, celsius=21.5)


@server.tool()
async def count(ctx: Context, steps: int) -> str:
    """Report progress, and log."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
        await ctx.info(f"at {step}")
    return "counted"


class Name(BaseModel):
    name: str


async def ask_name() -> Elicit[Name]:
    return Elicit("Who are you?", Name)


async def ask_line() -> Sample:
    message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="a line, please"))
    return Sample([message], max_tokens=50)


@server.tool()
async def greet(name: Annotated[ElicitationResult[Name], Resolve(ask_name)]) -> str:
    return f"Hello {name.data.name}" if isinstance(name, AcceptedElicitation) else f"no name: {name.action}"


@server.tool()
async def quote(line: Annotated[types.CreateMessageResult, Resolve(ask_line)]) -> str:
    return f"{line.model} says {line.content.text}"


@server.tool()
async def change(ctx: Context) -> str:
    """Tell this session of the handshake era what has changed, as far as it follows it."""
    await ctx.session.send_tool_list_changed()
    for uri in sorted(subscribed[key_of(ctx)]):
        await ctx.session.send_resource_updated(uri)
    return "changed"


@server.tool()
async def publish(ctx: Context, author: str) -> str:
    """Tell everybody who listens in the stateless era what has changed."""
    await ctx.notify_tools_changed()
    await ctx.notify_resource_updated("memo://nobody/notes")
    await ctx.notify_resource_updated(f"memo://{author}/notes")
    return "published"


# ---------------------------------------------------------------- tools whose stream breaks


@server.tool()
async def leave(ctx: Context) -> str:
    """Close the stream in the middle of the call, and go on once the gate is open."""
    gate = closed_gate()
    await ctx.info("before")
    await ctx.close_sse_stream()
    await ctx.info("while away")
    await gate.wait()
    await ctx.info("after")
    return "came back"


@server.tool()
async def wait(ctx: Context) -> str:
    """Log, and go on once the gate is open."""
    gate = closed_gate()
    await ctx.info("before")
    await gate.wait()
    await ctx.info("after")
    return "waited"


# ---------------------------------------------------------------- prompts, resources, completion


@server.prompt()
async def introduce(name: str) -> str:
    return f"Introduce {name}."


@server.resource("memo://greeting", mime_type="text/plain")
async def greeting() -> str:
    return "Grüß Gott"


@server.resource("memo://{author}/notes")
async def notes(author: str) -> str:
    return f"notes by {author}"


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    names = [name for name in ("Ada", "Alan", "Grace") if name.lower().startswith(argument.value.lower())]
    return types.Completion(values=names, total=len(names), has_more=False)


async def subscribe(ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
    subscribed[ctx.request.headers["mcp-session-id"]].add(str(params.uri))
    return types.EmptyResult()


# An `MCPServer` leaves subscriptions of the handshake era to its low-level server.
server.streamable_http_app()
server.session_manager.app.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
