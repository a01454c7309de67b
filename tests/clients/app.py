"""The server of the client tests: one tool, prompt or resource for each feature that a client can use."""

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

WAIT_SECONDS = 60
"""How long a tool waits at a gate."""

gates: list[asyncio.Event] = []


async def wait_at_gate(gate: asyncio.Event) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        await gate.wait()


def new_gate() -> asyncio.Event:
    """Return a closed gate."""
    gates.append(asyncio.Event())
    return gates[-1]


def open_gates() -> None:
    for gate in gates:
        gate.set()


@asynccontextmanager
async def lifespan(_: MCPServer) -> AsyncGenerator[None]:
    """Open all gates on SIGUSR1: a draining process accepts no call that could open one."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, open_gates)
    yield
    loop.remove_signal_handler(signal.SIGUSR1)


server = MCPServer("clients", version="1", lifespan=lifespan)
subscribed: defaultdict[str, set[str]] = defaultdict(set)
"""The resources to which sessions of the handshake era have subscribed, by the key of the session."""


def session_key(ctx: Context) -> str:
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
    """Report progress and log, once in each step."""
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
    """Notify this session of the handshake era of a changed list and of its subscribed resources."""
    await ctx.session.send_tool_list_changed()
    for uri in sorted(subscribed[session_key(ctx)]):
        await ctx.session.send_resource_updated(uri)
    return "changed"


@server.tool()
async def publish(ctx: Context, author: str) -> str:
    """Notify the subscriptions of the stateless era of a changed list and of two resources."""
    await ctx.notify_tools_changed()
    await ctx.notify_resource_updated("memo://unwatched/notes")
    await ctx.notify_resource_updated(f"memo://{author}/notes")
    return "published"


# ---------------------------------------------------------------- tools whose stream breaks


@server.tool()
async def reconnect(ctx: Context) -> str:
    """Close the stream in the middle of the call, so that the client reconnects, and continue when the gate is open."""
    gate = new_gate()
    await ctx.info("before")
    await ctx.close_sse_stream()
    await ctx.info("while away")
    await wait_at_gate(gate)
    await ctx.info("after")
    return "reconnected"


@server.tool()
async def wait(ctx: Context) -> str:
    """Log, and continue when the gate is open."""
    gate = new_gate()
    await ctx.info("before")
    await wait_at_gate(gate)
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
