"""What the integration tests serve: an `MCPServer` with something of everything, and a low-level `Server`.

A tool that has to be caught running waits at a gate, which another call opens, and notes in the record what
happened to it: no test needs to sleep.
"""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

import asyncio
import base64
import signal
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import (
    AcceptedElicitation,
    Context,
    Elicit,
    ElicitationResult,
    Image,
    ListRoots,
    MCPServer,
    Resolve,
    Sample,
)
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp.shared.message import ServerMessageMetadata
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Record:
    """Remembers what happened, and lets others wait for it."""

    def __init__(self) -> None:
        self._notes: set[str] = set()
        self._all_open = False
        self._changed = asyncio.Condition()

    async def note(self, what: str) -> None:
        async with self._changed:
            self._notes.add(what)
            self._changed.notify_all()

    async def wait_for(self, what: str) -> None:
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: what in self._notes or (what.endswith(": open") and self._all_open))

    async def open_all(self) -> None:
        async with self._changed:
            self._all_open = True
            self._changed.notify_all()

    def holds(self, what: str) -> bool:
        return what in self._notes


record = Record()
thread_gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
counts: defaultdict[str, int] = defaultdict(int)
texts: dict[str, str] = {}


@asynccontextmanager
async def lifespan(_: MCPServer) -> AsyncGenerator[None]:
    """Open all gates on SIGUSR1: while the server drains, no call can."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGUSR1, lambda: tasks.add(loop.create_task(record.open_all())))
    yield
    loop.remove_signal_handler(signal.SIGUSR1)


server = MCPServer("everything", version="7", instructions="Have a bit of everything.", lifespan=lifespan)


def session_of(ctx: Context) -> str:
    return (ctx.headers or {}).get("mcp-session-id", "none")


# ---------------------------------------------------------------- plain tools


@server.tool()
async def echo(text: str) -> str:
    return text


@server.tool()
def add(a: int, b: int) -> int:
    return a + b


@server.tool()
def thread() -> str:
    return threading.current_thread().name


class Weather(BaseModel):
    city: str
    celsius: float
    tags: list[str]


@server.tool()
async def weather(city: str) -> Weather:
    return Weather(city=city, celsius=21.5, tags=["sunny", "dry"])


@server.tool()
async def image() -> Image:
    return Image(data=PIXEL, format="png")


@server.tool()
async def big(size: int) -> str:
    return "ä" + "x" * (size - 2) + "z"


@server.tool()
async def fail(why: str) -> str:
    raise ToolError(why)


@server.tool()
async def crash() -> str:
    raise RuntimeError("an accident")


@server.tool()
async def whoami(ctx: Context) -> str:
    return session_of(ctx)


@server.tool()
async def count(ctx: Context) -> int:
    counts[session_of(ctx)] += 1
    await asyncio.sleep(0)
    return counts[session_of(ctx)]


@server.tool()
async def remember(text: str, ctx: Context) -> None:
    texts[session_of(ctx)] = text


@server.tool()
async def recall(ctx: Context) -> str:
    return texts.get(session_of(ctx), "")


# ---------------------------------------------------------------- tools that wait


def passed(gate: str) -> str:
    return f"through {gate.partition('@')[0]}"


@server.tool()
async def wait_at(gate: str, size: int = 0) -> str:
    """Wait at a gate in silence."""
    await record.note(f"{gate}: started")
    try:
        await record.wait_for(f"{gate}: open")
    except asyncio.CancelledError:
        await asyncio.shield(record.note(f"{gate}: cancelled"))
        raise
    await record.note(f"{gate}: finished")
    return passed(gate) + "x" * size


@server.tool()
def wait_in_thread(gate: str) -> str:
    """The same in a plain function, which nothing can interrupt."""
    thread_gates[f"{gate}: started"].set()
    assert thread_gates[gate].wait(20)
    return passed(gate)


@server.tool()
async def open_gate(gate: str) -> None:
    thread_gates[gate].set()
    await record.note(f"{gate}: open")


@server.tool()
async def seen(what: str) -> str:
    """Return once something is in the record."""
    await record.wait_for(what)
    return what


@server.tool()
async def holds(what: str) -> bool:
    return record.holds(what)


@server.tool()
async def thread_started(gate: str) -> bool:
    return await asyncio.to_thread(thread_gates[f"{gate}: started"].wait, 20)


# ---------------------------------------------------------------- tools that talk


@server.tool()
async def progress(ctx: Context, steps: int) -> str:
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
    return "done"


@server.tool()
async def logs(ctx: Context, number: int, size: int = 0, first: int = 0) -> str:
    for index in range(first, first + number):
        await ctx.info(f"{index}:" + "x" * size)
    return "logged"


@server.tool()
async def logs_then_wait(ctx: Context, gate: str, before: int, after: int, size: int = 0) -> str:
    """Log, wait at the gate, log again."""
    for index in range(before):
        await ctx.info(f"{index}:" + "x" * size)
    await record.note(f"{gate}: started")
    await record.wait_for(f"{gate}: open")
    for index in range(before, before + after):
        await ctx.info(f"{index}:")
    return "logged"


@server.tool()
async def close_stream(ctx: Context, gate: str) -> str:
    """Close the connection in the middle of the call, and go on once the gate is open."""
    await ctx.info("before")
    await ctx.close_sse_stream()
    await record.note(f"{gate}: closed")
    await ctx.info("while away")
    await record.wait_for(f"{gate}: open")
    await ctx.info("after")
    return "closed and came back"


@server.tool()
async def close_standalone(ctx: Context) -> str:
    await ctx.close_standalone_sse_stream()
    return "closed"


@server.tool()
async def change(ctx: Context, uri: str = "memo://changed") -> str:
    """Say on the standalone stream that everything has changed."""
    await ctx.session.send_tool_list_changed()
    await ctx.session.send_prompt_list_changed()
    await ctx.session.send_resource_list_changed()
    await ctx.session.send_resource_updated(uri)
    return "changed"


@server.tool()
async def publish(ctx: Context, uri: str = "memo://changed") -> str:
    """Say the same to the subscriptions of the stateless era."""
    await ctx.notify_tools_changed()
    await ctx.notify_prompts_changed()
    await ctx.notify_resources_changed()
    await ctx.notify_resource_updated(uri)
    return "published"


# ---------------------------------------------------------------- tools that ask


class Name(BaseModel):
    name: str


async def _ask_name() -> Elicit[Name]:
    return Elicit("Who are you?", Name)


async def _sample_line() -> Sample:
    message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="a line, please"))
    return Sample([message], max_tokens=50)


async def _ask_roots() -> ListRoots:
    return ListRoots()


@server.tool()
async def greet(name: Annotated[ElicitationResult[Name], Resolve(_ask_name)]) -> str:
    """Ask in the way that works in both eras."""
    return f"Hello {name.data.name}" if isinstance(name, AcceptedElicitation) else f"no name: {name.action}"


@server.tool()
async def sample(line: Annotated[types.CreateMessageResult, Resolve(_sample_line)]) -> str:
    return f"{line.model} says {line.content.text}"


@server.tool()
async def roots(found: Annotated[types.ListRootsResult, Resolve(_ask_roots)]) -> str:
    return ", ".join(str(root.uri) for root in found.roots)


@server.tool()
async def all_three(
    name: Annotated[Name, Resolve(_ask_name)],
    line: Annotated[types.CreateMessageResult, Resolve(_sample_line)],
    found: Annotated[types.ListRootsResult, Resolve(_ask_roots)],
) -> str:
    return f"{name.name}; {line.content.text}; {len(found.roots)}"


@server.tool()
async def elicit(ctx: Context, times: int = 1) -> str:
    """Ask in the handshake era's way, several questions at once."""
    answers = await asyncio.gather(*(ctx.elicit(f"question {index}", Name) for index in range(times)))
    return ", ".join(answer.data.name if answer.action == "accept" else answer.action for answer in answers)


@server.tool()
async def elicit_until_cancelled(ctx: Context, gate: str) -> str:
    try:
        await ctx.elicit("Who?", Name)
    except asyncio.CancelledError:
        await asyncio.shield(record.note(f"{gate}: cancelled"))
        raise
    return "answered"


@server.tool()
async def sample_in_steps(ctx: Context, gate: str) -> str:
    """Ask for a sample, and tell what progress the client reported meanwhile."""
    steps: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(f"{progress:g} of {total or 0:g}: {message}")
        await record.note(f"{gate}: {message}")

    line = await _sample_line()
    request = types.CreateMessageRequest(params=line.params)
    of_this_call = ServerMessageMetadata(related_request_id=ctx.request_id)
    result = await ctx.session.send_request(
        request, types.CreateMessageResult, metadata=of_this_call, progress_callback=on_progress
    )
    return f"{result.content.text}, after {', '.join(steps)}"


# ---------------------------------------------------------------- prompts, resources, completion


@server.prompt()
async def introduce(name: str) -> str:
    return f"Introduce {name}."


@server.resource("memo://greeting", mime_type="text/plain")
async def greeting() -> str:
    return "Grüß Gott"


@server.resource("memo://pixel", mime_type="image/png")
async def pixel() -> bytes:
    return PIXEL


@server.resource("memo://{author}/notes")
async def notes(author: str) -> str:
    return f"notes by {author}"


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    names = [name for name in ("Ada", "Alan", "Grace") if name.lower().startswith(argument.value.lower())]
    return types.Completion(values=names, total=len(names), has_more=False)


routed = MCPServer("routed")


@routed.custom_route("/custom/health", methods=["GET"])
async def health(request: Any) -> PlainTextResponse:
    return PlainTextResponse("fine")


# ---------------------------------------------------------------- the low-level server

PAGES: dict[str | None, tuple[str, str | None]] = {
    None: ("first", "page-2"),
    "page-2": ("second", "page-3"),
    "page-3": ("third", None),
}
bus = InMemorySubscriptionBus()
levels: dict[str, str] = {}
subscribed: defaultdict[str, set[str]] = defaultdict(set)


def key_of(ctx: Any) -> str:
    return ctx.request.headers.get("mcp-session-id", "none")


async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    name, following = PAGES[params.cursor if params is not None else None]
    tool = types.Tool(name=name, input_schema={"type": "object"})
    return types.ListToolsResult(tools=[tool], next_cursor=following)


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    if params.name == "update":
        for uri in sorted(subscribed[key_of(ctx)]):
            await ctx.session.send_resource_updated(uri)
    text = {
        "first": str(params.arguments),
        "level": levels.get(key_of(ctx), "none"),
        "subscriptions": " ".join(sorted(subscribed[key_of(ctx)])),
    }.get(params.name, "")
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


async def subscribe(ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
    subscribed[key_of(ctx)].add(str(params.uri))
    return types.EmptyResult()


async def unsubscribe(ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    subscribed[key_of(ctx)].discard(str(params.uri))
    return types.EmptyResult()


async def set_level(ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
    levels[key_of(ctx)] = params.level
    return types.EmptyResult()


lowlevel = Server(
    "lowlevel",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
    on_set_logging_level=set_level,
)
