"""Running an application's lifespan around a test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any


def run_lifespan(io_loop: Any, application: Any) -> Iterator[Any]:
    """Enter the lifespan of an application, yield the application, and leave the lifespan.

    One task enters and leaves it, because a task must leave the cancel scopes that it has entered.
    """
    leaving = asyncio.Event()
    entered = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def live() -> None:
        async with application.lifespan():
            entered.set()
            await leaving.wait()

    async def enter() -> None:
        tasks.append(asyncio.create_task(live()))
        waiting = asyncio.create_task(entered.wait())
        await asyncio.wait([*tasks, waiting], return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            waiting.cancel()
            tasks[0].result()

    async def leave() -> None:
        leaving.set()
        await tasks[0]

    io_loop.run_sync(enter, timeout=30)
    yield application
    io_loop.run_sync(leave, timeout=30)
