"""Servers whose lists and resources change by themselves, outside of any request: on signals.

SIGUSR1 wakes a task of the lifespan, which offers one more tool and publishes that; SIGUSR2 wakes a thread of the
lifespan, which publishes that a resource is new and another one was updated; SIGRTMIN wakes a task that tells those
sessions whose handlers it has kept in mind.
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
PUBLIC = CacheHint(ttl_ms=600_000, scope="public")
PAGE = 2

bus = InMemorySubscriptionBus()
kept_in_mind: list[ServerSession] = []


async def added() -> str:
    """A tool that is not there from the beginning."""
    return "added"


async def add_tool() -> None:
    if "added" not in {tool.name for tool in await server.list_tools()}:
        server.add_tool(added)
    await bus.publish(ToolsListChanged())


async def change_resources() -> None:
    await bus.publish(ResourcesListChanged())
    await bus.publish(ResourceUpdated("memo://nobody's"))
    await bus.publish(ResourceUpdated(CHANGED))


async def remind() -> None:
    for session in kept_in_mind:
        await session.send_prompt_list_changed()


@asynccontextmanager
async def lifespan(_: object) -> AsyncGenerator[dict[str, Any]]:
    loop = asyncio.get_running_loop()
    tasks = [
        asyncio.create_task(on_signal(signal.SIGUSR1, add_tool)),
        asyncio.create_task(on_signal(signal.SIGRTMIN, remind)),
    ]
    woken, ends = threading.Event(), threading.Event()

    def watch() -> None:
        while woken.wait() and not ends.is_set():
            woken.clear()
            asyncio.run_coroutine_threadsafe(change_resources(), loop)

    thread = threading.Thread(target=watch)
    thread.start()
    loop.add_signal_handler(signal.SIGUSR2, woken.set)
    try:
        yield {}
    finally:
        ends.set()
        woken.set()
        await asyncio.to_thread(thread.join)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def on_signal(number: int, do: Callable[[], Awaitable[None]]) -> None:
    woken = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(number, woken.set)
    while await woken.wait():
        woken.clear()
        await do()


@asynccontextmanager
async def publishing_lifespan(_: object) -> AsyncGenerator[dict[str, Any]]:
    await bus.publish(ToolsListChanged())
    yield {}


# ---------------------------------------------------------------- an MCPServer

server = MCPServer(
    "changing",
    lifespan=lifespan,
    subscriptions=bus,
    cache_hints={"tools/list": PUBLIC, "resources/read": CacheHint(ttl_ms=5_000)},
    # A key of this process's own: the others do not have it.
    request_state_security=RequestStateSecurity(
        keys=[os.urandom(32)], bind_principal=lambda ctx: ctx.request.headers.get("user") if ctx.request else None
    ),
)
newer = MCPServer("changing", lifespan=publishing_lifespan, subscriptions=bus)
"""The same after it was changed: it says so as it starts."""
hasty = MCPServer("changing", request_state_security=RequestStateSecurity(keys=[os.urandom(32)], ttl=1.5))
"""The same, for clients that answer at once."""


@server.tool()
async def process() -> int:
    return os.getpid()


@server.tool()
async def keep_in_mind(ctx: Context) -> str:
    kept_in_mind.append(ctx.session)
    return "kept"


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


async def book(what: str, ctx: Context) -> str | types.InputRequiredResult:
    """Ask for one thing after the other, in as many rounds; the state has the answers so far, and where they came."""
    answers: list[str] = json.loads(ctx.request_state) if ctx.request_state else []
    for given in (ctx.input_responses or {}).values():
        assert isinstance(given, types.ElicitResult)
        answers += [f"{value} at {os.getpid()}" for value in (given.content or {}).values()]
    for key in QUESTIONS[len(answers) :]:
        return types.InputRequiredResult(input_requests={key: question(key)}, request_state=json.dumps(answers))
    return f"{what} for {', '.join(answers)}"


for each in (server, hasty):
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
    """Return which of so many things stand on a page, and the cursor of the next one."""
    start = int(cursor.removeprefix("from-")) if cursor else 0
    return range(start, min(start + PAGE, number)), f"from-{start + PAGE}" if start + PAGE < number else None


def cursor_of(params: types.PaginatedRequestParams | None) -> str | None:
    return params.cursor if params is not None else None


async def list_tools(_: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    """Each page says which process made it; what is routed by a header stands on the last one."""
    numbers, following = page(cursor_of(params), len(NAMES) + 1)
    routed = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    tools = [
        types.Tool(name=NAMES[number], input_schema={"type": "object"}, description=str(os.getpid()))
        if number < len(NAMES)
        else types.Tool(name="routed", input_schema=routed, description=str(os.getpid()))
        for number in numbers
    ]
    return types.ListToolsResult(tools=tools, next_cursor=following)


async def list_resources(_: Any, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    numbers, following = page(cursor_of(params), 5)
    resources = [types.Resource(name=str(os.getpid()), uri=f"memo://{number}") for number in numbers]
    # Its own word goes before what was said for all.
    return types.ListResourcesResult(resources=resources, next_cursor=following, ttl_ms=1_000)


async def call_tool(_: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=str(params.arguments))])


async def subscription(_: Any, params: types.SubscribeRequestParams | types.UnsubscribeRequestParams) -> Any:
    return types.EmptyResult()


lowlevel = Server(
    "catalogue",
    lifespan=lifespan,
    cache_hints={"tools/list": PUBLIC, "resources/list": PUBLIC},
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_subscribe_resource=subscription,
    on_unsubscribe_resource=subscription,
    on_subscriptions_listen=ListenHandler(bus),
)
