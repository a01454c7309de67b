"""A clock that tests move, and memory stores that go by it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from mcp_tornado.sessions import ClientInfo, Session
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.testing import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def store(anyio_backend, clock):
    async with MemoryStore(clock) as opened:
        yield opened


@pytest.fixture
def make_session(clock):
    """Make a session that lives for a number of seconds from now."""

    def make(key="key-0001", lives=100.0, **fields):
        now = clock()
        return Session(
            **{
                "key": key,
                "created_at": now,
                "last_seen_at": now,
                "expires_at": now + timedelta(seconds=lives),
                "client": ClientInfo(name="client"),
                "protocol_version": "2025-11-25",
                **fields,
            }
        )

    return make


@pytest.fixture
def settle():
    """Let every task run until it waits for something."""

    async def run():
        for _ in range(20):
            await asyncio.sleep(0)

    return run
