"""A clock that tests move, and memory stores that go by it."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.testing import FakeClock, new_session


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
    return partial(new_session, clock)


@pytest.fixture
def settle():
    """Let every task run until it waits for something."""

    async def run():
        for _ in range(20):
            await asyncio.sleep(0)

    return run
