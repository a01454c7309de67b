"""An `MCPServer` with tools, prompts, resources and completion of every kind.

Some tools wait at a gate, which another call opens. They note what happens to them, and a test waits for the note
instead of sleeping.
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
from mcp.shared.message import ServerMessageMetadata
from pydantic import BaseModel

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


WAIT_SECONDS = 60
"""How long a tool waits at a gate or for a note."""
THREAD_WAIT_SECONDS = 20
"""The same for a tool that is a plain function."""


class Notes:
    """Notes of what has happened, for which calls can wait."""

    def __init__(self) -> None:
        self._notes: set[str] = set()
        self._all_open = False
        self._changed = asyncio.Condition()

    async def add(self, note: str) -> None:
        async with self._changed:
            self._notes.add(note)
            self._changed.notify_all()

    async def wait_for(self, note: str) -> None:
        """Wait for a note; `GATE: open` counts as present once all gates are open."""
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._changed:
                await self._changed.wait_for(
                    lambda: note in self._notes or (note.endswith(": open") and self._all_open)
                )
        except TimeoutError:
            raise ToolError(f"{note!r} was not noted within {WAIT_SECONDS} s") from None

    async def open_all_gates(self) -> None:
        async with self._changed:
            self._all_open = True
            self._changed.notify_all()

    def __contains__(self, note: str) -> bool:
        return note in self._notes


notes = Notes()
thread_gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
counts: defaultdict[str, int] = defaultdict(int)
texts: dict[str, str] = {}


@asynccontextmanager
async def lifespan(_: MCPServer) -> AsyncGenerator[None]:
    """Open all gates on SIGUSR1: a draining server accepts no call that could open one."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGUSR1, lambda: tasks.add(loop.create_task(notes.open_all_gates())))
    yield
    loop.remove_signal_handler(signal.SIGUSR1)


server = MCPServer("everything", version="7", instructions="Have a bit of everything.", lifespan=lifespan)


def session_key(ctx: Context) -> str:
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
    return session_key(ctx)


@server.tool()
async def count(ctx: Context) -> int:
    counts[session_key(ctx)] += 1
    await asyncio.sleep(0)  # lets other calls run between the increment and the read
    return counts[session_key(ctx)]


@server.tool()
async def remember(text: str, ctx: Context) -> None:
    texts[session_key(ctx)] = text


@server.tool()
async def recall(ctx: Context) -> str:
    return texts.get(session_key(ctx), "")


# ---------------------------------------------------------------- tools that wait


def passed_gate(gate: str) -> str:
    return f"through {gate.partition('@')[0]}"


@server.tool()
async def wait_at(gate: str, size: int = 0) -> str:
    """Wait at a gate and send nothing."""
    await notes.add(f"{gate}: started")
    try:
        await notes.wait_for(f"{gate}: open")
    except asyncio.CancelledError:
        await asyncio.shield(notes.add(f"{gate}: cancelled"))
        raise
    await notes.add(f"{gate}: finished")
    return passed_gate(gate) + "x" * size


@server.tool()
def wait_in_thread(gate: str) -> str:
    """Do the same in a plain function, which nothing can interrupt."""
    thread_gates[f"{gate}: started"].set()
    assert thread_gates[gate].wait(THREAD_WAIT_SECONDS), f"gate {gate} was not opened"
    return passed_gate(gate)


@server.tool()
async def open_gate(gate: str) -> None:
    thread_gates[gate].set()
    await notes.add(f"{gate}: open")


@server.tool()
async def wait_for_note(note: str) -> str:
    """Return a note when it is present."""
    await notes.wait_for(note)
    return note


@server.tool()
async def has_note(note: str) -> bool:
    return note in notes


@server.tool()
async def wait_for_thread(gate: str) -> str:
    """Return when `wait_in_thread` waits at the gate."""
    if not await asyncio.to_thread(thread_gates[f"{gate}: started"].wait, THREAD_WAIT_SECONDS):
        raise ToolError(f"no thread waits at {gate}")
    return "started"


# ---------------------------------------------------------------- tools that send notifications


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
    """Log, wait at a gate, log again."""
    for index in range(before):
        await ctx.info(f"{index}:" + "x" * size)
    await notes.add(f"{gate}: started")
    await notes.wait_for(f"{gate}: open")
    for index in range(before, before + after):
        await ctx.info(f"{index}:")
    return "logged"


@server.tool()
async def close_stream(ctx: Context, gate: str) -> str:
    """Close the connection in the middle of the call, and continue when the gate is open."""
    await ctx.info("before")
    await ctx.close_sse_stream()
    await notes.add(f"{gate}: closed")
    await ctx.info("while away")
    await notes.wait_for(f"{gate}: open")
    await ctx.info("after")
    return "closed and resumed"


@server.tool()
async def close_standalone(ctx: Context) -> str:
    await ctx.close_standalone_sse_stream()
    return "closed"


@server.tool()
async def change(ctx: Context, uri: str = "memo://changed") -> str:
    """Send a notification of every kind of change on the standalone stream."""
    await ctx.session.send_tool_list_changed()
    await ctx.session.send_prompt_list_changed()
    await ctx.session.send_resource_list_changed()
    await ctx.session.send_resource_updated(uri)
    return "changed"


@server.tool()
async def publish(ctx: Context, uri: str = "memo://changed") -> str:
    """Publish the same changes to the subscriptions of the stateless era."""
    await ctx.notify_tools_changed()
    await ctx.notify_prompts_changed()
    await ctx.notify_resources_changed()
    await ctx.notify_resource_updated(uri)
    return "published"


# ---------------------------------------------------------------- tools that ask the client


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
    """Ask for a name in the way that works in both eras."""
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
    """Ask several questions at once, in the way of the handshake era."""
    answers = await asyncio.gather(*(ctx.elicit(f"question {index}", Name) for index in range(times)))
    return ", ".join(answer.data.name if answer.action == "accept" else answer.action for answer in answers)


@server.tool()
async def elicit_until_cancelled(ctx: Context, gate: str) -> str:
    try:
        await ctx.elicit("Who?", Name)
    except asyncio.CancelledError:
        await asyncio.shield(notes.add(f"{gate}: cancelled"))
        raise
    return "answered"


@server.tool()
async def sample_in_steps(ctx: Context, gate: str) -> str:
    """Ask for a sample, and return the progress that the client reported meanwhile."""
    steps: list[str] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append(f"{progress:g} of {total or 0:g}: {message}")
        await notes.add(f"{gate}: {message}")

    line = await _sample_line()
    request = types.CreateMessageRequest(params=line.params)
    metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
    result = await ctx.session.send_request(
        request, types.CreateMessageResult, metadata=metadata, progress_callback=on_progress
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
async def author_notes(author: str) -> str:
    return f"notes by {author}"


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    names = [name for name in ("Ada", "Alan", "Grace") if name.lower().startswith(argument.value.lower())]
    return types.Completion(values=names, total=len(names), has_more=False)
