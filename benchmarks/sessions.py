"""Realistic sessions in a memory store, on a clock that the benchmark moves."""

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
"""What the SDK's client sends where its user can sample, elicit and has roots."""

_INITIALIZE_PARAMS = orjson.dumps(INITIALIZE_PARAMS)
_USER_AGENT = b"python-httpx/0.28.1"
_TURN = 100
"""How many sessions are created in one turn of the event loop; a loop that never turns keeps its old timers."""


class FakeClock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """Return the time it shows."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move it forward."""
        self._now += timedelta(seconds=seconds)


@asynccontextmanager
async def manager_on(clock: FakeClock) -> AsyncGenerator[SessionManager]:
    """Enter an empty memory store and give the manager of its sessions, of which there may be any number."""
    async with MemoryStore(clock) as store:
        yield manager_of(store, clock)


def manager_of(store: SessionStore, clock: FakeClock) -> SessionManager:
    """Return the manager of the sessions in a store, of which there may be any number."""
    log.configure("WARNING")
    rules = SessionRules(idle_timeout=IDLE_TIMEOUT, max_sessions=0)
    return SessionManager(store, rules, clock=clock, metrics=Metrics("benchmark"))


async def created(manager: SessionManager, clock: FakeClock, count: int, *, spread: float = 0.0) -> AsyncGenerator[str]:
    """Create sessions as `initialize` does, evenly over `spread` seconds of the clock, and give their ids."""
    for number in range(count):
        clock.advance(spread / count)
        yield await _create(manager, number)
        if number % _TURN == 0:
            await asyncio.sleep(0)


async def _create(manager: SessionManager, number: int) -> str:
    # As on a server, everything was just parsed: no two sessions share an object.
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
