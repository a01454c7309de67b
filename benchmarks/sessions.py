"""Realistic sessions, on a clock that the benchmark advances."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from mcp_tornado import log
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import ClientInfo, SessionManager, SessionRules, SessionStore
from mcp_tornado.stores.memory import MemoryStore

IDLE_TIMEOUT = 3600.0
PROTOCOL_VERSION = "2025-11-25"

INITIALIZE_PARAMS: dict[str, Any] = {
    "protocolVersion": PROTOCOL_VERSION,
    "capabilities": {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": True}},
    "clientInfo": {"name": "mcp", "version": "0.1.0"},
}
"""The parameters that the client of the SDK sends if it supports sampling, elicitation and roots."""

_INITIALIZE_PARAMS = orjson.dumps(INITIALIZE_PARAMS)
_USER_AGENT = b"python-httpx/0.28.1"
_SESSIONS_PER_ITERATION = 100
"""Number of sessions that are created in one iteration of the event loop, which frees old timers only at its end."""


class FakeClock:
    """A clock that only moves when it is advanced."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """Return the time of the clock."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Advance the clock by this number of seconds."""
        self._now += timedelta(seconds=seconds)


@asynccontextmanager
async def open_manager(clock: FakeClock) -> AsyncGenerator[SessionManager]:
    """Enter an empty memory store, and give a manager of its sessions without a limit on their number."""
    async with MemoryStore(clock) as store:
        yield make_manager(store, clock)


def make_manager(store: SessionStore, clock: FakeClock) -> SessionManager:
    """Return a manager of the sessions in a store without a limit on their number."""
    log.configure("WARNING")
    rules = SessionRules(idle_timeout=IDLE_TIMEOUT, max_sessions=0)
    return SessionManager(store, rules, clock=clock, metrics=Metrics("benchmark"))


async def create_sessions(
    manager: SessionManager, clock: FakeClock, count: int, *, spread: float = 0.0
) -> AsyncGenerator[str]:
    """Create sessions as `initialize` does, spread evenly over `spread` seconds of the clock, and yield their ids."""
    for number in range(count):
        clock.advance(spread / count)
        yield await _create(manager, number)
        if number % _SESSIONS_PER_ITERATION == 0:
            await asyncio.sleep(0)


async def _create(manager: SessionManager, number: int) -> str:
    # Parse the parameters each time, as a server does, so that no two sessions share an object.
    params = orjson.loads(_INITIALIZE_PARAMS)
    client = ClientInfo(
        remote_addr=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
        user_agent=_USER_AGENT.decode(),
        name=params["clientInfo"]["name"],
        version=params["clientInfo"]["version"],
    )
    session_id, _ = await manager.create(
        client=client, protocol_version=PROTOCOL_VERSION, client_params=params, initialized=True
    )
    return session_id
