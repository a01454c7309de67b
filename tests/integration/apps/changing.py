"""Servers whose lists and resources change outside of any request, when a signal arrives.

- SIGUSR1: a task of the lifespan adds a tool and publishes the change.
- SIGUSR2: a thread of the lifespan publishes that a resource is new and that another one was updated.
- SIGRTMIN: a task of the lifespan notifies the sessions that the tool `remember_session` has remembered.
"""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

import asyncio
import json
import os
import signal
import threading
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.lowlevel.server import Server
from mcp.server.mcpserver import Context, MCPServer, RequestStateSecurity
from mcp.server.session import ServerSession
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourcesListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPDeprecationWarning
from pydantic import Field

warnings.simplefilter("ignore", MCPDeprecationWarning)

CHANGED = "memo://changed"
PUBLIC_HINT = CacheHint(ttl_ms=600_000, scope="public")
PAGE_SIZE = 2

bus = InMemorySubscriptionBus()
remembered_sessions: list[ServerSession] = []


async def added() -> str:
    """A tool that the server does not have at its start."""
    return "added"


async def add_tool() -> None:
    if "added" not in {tool.name for tool in await server.list_tools()}:
        server.add_tool(added)
    await bus.publish(ToolsListChanged())


async def change_resources() -> None:
    await bus.publish(ResourcesListChanged())
    await bus.publish(ResourceUpdated("memo://unwatched"))
    await bus.publish(ResourceUpdated(CHANGED))


async def notify_remembered_sessions() -> None:
    for session in remembered_sessions:
        await session.send_prompt_list_changed()


@asynccontextmanager
async def lifespan(_: object) -> AsyncGenerator[dict[str, Any]]:
    loop = asyncio.get_running_loop()
    tasks = [
        asyncio.create_task(run_on_signal(signal.SIGUSR1, add_tool)),
        asyncio.create_task(run_on_signal(signal.SIGRTMIN, notify_remembered_sessions)),
    ]
    signalled, stopping = threading.Event(), threading.Event()

    def run_thread() -> None:
        while signalled.wait() and not stopping.is_set():
            signalled.clear()
            asyncio.run_coroutine_threadsafe(change_resources(), loop)

    thread = threading.Thread(target=run_thread)
    thread.start()
    loop.add_signal_handler(signal.SIGUSR2, signalled.set)
    try:
        yield {}
    finally:
        stopping.set()
        signalled.set()
        await asyncio.to_thread(thread.join)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_on_signal(number: int, action: Callable[[], Awaitable[None]]) -> None:
    """Run an action at each signal, until the task is cancelled."""
    signalled = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    while True:
        await signalled.wait()
        signalled.clear()
        await action()


@asynccontextmanager
async def publishing_lifespan(_: object) -> AsyncGenerator[dict[str, Any]]:
    await bus.publish(ToolsListChanged())
    yield {}


# ---------------------------------------------------------------- an MCPServer

server = MCPServer(
    "changing",
    lifespan=lifespan,
    subscriptions=bus,
    cache_hints={"tools/list": PUBLIC_HINT, "resources/read": CacheHint(ttl_ms=5_000)},
    # A random key: the other processes do not have it.
    request_state_security=RequestStateSecurity(
        keys=[os.urandom(32)], bind_principal=lambda ctx: ctx.request.headers.get("user") if ctx.request else None
    ),
)
newer = MCPServer("changing", lifespan=publishing_lifespan, subscriptions=bus)
"""A new version of the server with other tools, which publishes the change at its start."""
short_lived = MCPServer("changing", request_state_security=RequestStateSecurity(keys=[os.urandom(32)], ttl=1.5))
"""A server whose `requestState` expires after 1.5 s."""


@server.tool()
async def process() -> int:
    return os.getpid()


@server.tool()
async def remember_session(ctx: Context) -> str:
    remembered_sessions.append(ctx.session)
    return "remembered"


@server.tool()
async def route(
    region: Annotated[str | None, Field(json_schema_extra={"type": "string", "x-mcp-header": "Region"})] = None,
    number: Annotated[int, Field(json_schema_extra={"x-mcp-header": "Number"})] = 0,
    urgent: Annotated[bool, Field(json_schema_extra={"x-mcp-header": "Urgent"})] = False,
    text: str = "",
) -> str:
    return f"{region}, {number}, {urgent}, {text}"


QUESTIONS = ("name", "city")


def question(key: str) -> types.ElicitRequest:
    schema = {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=f"Your {key}?", requested_schema=schema))


async def book(item: str, ctx: Context) -> str | types.InputRequiredResult:
    """Ask one question in each round; the state holds the answers so far and the processes that received them."""
    answers: list[str] = json.loads(ctx.request_state) if ctx.request_state else []
    for response in (ctx.input_responses or {}).values():
        assert isinstance(response, types.ElicitResult)
        answers += [f"{value} at {os.getpid()}" for value in (response.content or {}).values()]
    for key in QUESTIONS[len(answers) :]:
        return types.InputRequiredResult(input_requests={key: question(key)}, request_state=json.dumps(answers))
    return f"{item} for {', '.join(answers)}"


for each in (server, short_lived):
    each.add_tool(book)
    each.add_tool(book, name="book_again")


@server.prompt()
async def introduce(name: str) -> str:
    return f"Introduce {name}."


@server.resource("memo://grüße")
async def greetings() -> str:
    return "Grüß Gott"


@server.completion()
async def complete(ref: Any, argument: Any, context: types.CompletionContext | None) -> types.Completion:
    names = [name for name in ("Ada", "Alan", "Grace") if name.lower().startswith(argument.value.lower())]
    of = (context.arguments or {}).get("of", "") if context is not None else ""
    return types.Completion(values=[f"{name} {of}".rstrip() for name in names], total=len(names), has_more=False)


# ---------------------------------------------------------------- a low-level server

NAMES = [f"tool-{index}" for index in range(4)]


def page(cursor: str | None, number: int) -> tuple[range, str | None]:
    """Return the indexes of the items on a page of a list of `number` items, and the cursor of the next page."""
    start = int(cursor.removeprefix("from-")) if cursor else 0
    end = start + PAGE_SIZE
    return range(start, min(end, number)), f"from-{end}" if end < number else None


def cursor_of(params: types.PaginatedRequestParams | None) -> str | None:
    return params.cursor if params is not None else None


async def list_tools(_: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    """List tools whose description is the process id; a tool with a mirrored argument is on the last page."""
    numbers, next_cursor = page(cursor_of(params), len(NAMES) + 1)
    routed = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    tools = [
        types.Tool(name=NAMES[number], input_schema={"type": "object"}, description=str(os.getpid()))
        if number < len(NAMES)
        else types.Tool(name="routed", input_schema=routed, description=str(os.getpid()))
        for number in numbers
    ]
    return types.ListToolsResult(tools=tools, next_cursor=next_cursor)


async def list_resources(_: Any, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    numbers, next_cursor = page(cursor_of(params), 5)
    resources = [types.Resource(name=str(os.getpid()), uri=f"memo://{number}") for number in numbers]
    # The hint of a result overrides the server's.
    return types.ListResourcesResult(resources=resources, next_cursor=next_cursor, ttl_ms=1_000)


async def call_tool(_: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=str(params.arguments))])


async def subscription(_: Any, params: types.SubscribeRequestParams | types.UnsubscribeRequestParams) -> Any:
    return types.EmptyResult()


lowlevel = Server(
    "catalogue",
    lifespan=lifespan,
    cache_hints={"tools/list": PUBLIC_HINT, "resources/list": PUBLIC_HINT},
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_subscribe_resource=subscription,
    on_unsubscribe_resource=subscription,
    on_subscriptions_listen=ListenHandler(bus),
)
