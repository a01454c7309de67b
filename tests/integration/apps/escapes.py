"""Servers whose handlers let out exceptions that are no `Exception`: an MCPServer and a FastMCP server."""

# No `from __future__ import annotations`: the SDK resolves the annotations of tools at run time.

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import anyio
import mcp_types as types
from fastmcp import FastMCP
from mcp.server.mcpserver import Context, MCPServer


class Panic(BaseException):
    """The base exception of a library."""


def raise_panic() -> None:
    raise Panic("a secret in a panic")


def raise_cancelled() -> None:
    raise asyncio.CancelledError


def raise_interrupt() -> None:
    raise KeyboardInterrupt


def exit_process() -> None:
    sys.exit(3)


def close_generator() -> None:
    raise GeneratorExit


ESCAPES: dict[str, Callable[[], None]] = {
    "cancelled": raise_cancelled,
    "panic": raise_panic,
    "interrupt": raise_interrupt,
    "exit": exit_process,
    "generator": close_generator,
}


async def let_out(how: str) -> str:
    """Let out an exception, in one of the ways of `ESCAPES` or in one of those that need a task."""
    if how == "self-cancelled":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(30)
    elif how == "cancelled-late":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "done"
    elif how == "task-group":
        async with anyio.create_task_group() as group:
            group.start_soon(let_out, "exit")
    elif how == "task":
        await asyncio.create_task(let_out("exit"))
    else:
        ESCAPES[how]()
    return "unreachable"


server: MCPServer[Any] = MCPServer("escapes")
fast: FastMCP[Any] = FastMCP("escapes")


@server.tool()
async def escape(ctx: Context[Any, Any], how: str, steps: int = 0) -> str:
    for step in range(steps):
        await ctx.report_progress(step)
    return await let_out(how)


@server.tool()
def escape_thread(how: str) -> str:
    ESCAPES[how]()
    return "unreachable"


@server.tool()
async def exit_when_cancelled() -> str:
    """Wait, and let out `SystemExit` when the call is cancelled."""
    try:
        await asyncio.sleep(30)
    finally:
        exit_process()


@server.tool()
def echo(text: str) -> str:
    return text


@server.prompt()
async def prompt(how: str) -> str:
    return await let_out(how)


@server.resource("escape://{how}")
async def resource(how: str) -> str:
    return await let_out(how)


@server.completion()
async def complete(ref: Any, argument: types.CompletionArgument, context: Any) -> None:
    await let_out(argument.value)


fast.tool(escape_thread)
fast.tool(let_out)
fast.tool(echo)


async def escape_from_notification(ctx: Any, params: types.NotificationParams) -> None:
    exit_process()


async def escape_from_middleware(ctx: Any, call_next: Any) -> Any:
    """Let out an exception in `initialize` and `tools/list` if the client is called so."""
    info = (ctx.params or {}).get("clientInfo") or {}
    if ctx.method == "initialize" and info.get("name") == "exit":
        exit_process()
    return await call_next(ctx)


def low_level(server: Any) -> Any:
    """Return the SDK's server inside an MCPServer."""
    server.streamable_http_app()
    return server.session_manager.app


_low_level = low_level(server)
_low_level.add_notification_handler("notifications/exit", types.NotificationParams, escape_from_notification)
_low_level.middleware.append(escape_from_middleware)
