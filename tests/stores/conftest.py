"""Fixtures: a clock that tests move, and a memory store that uses it."""

from __future__ import annotations

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
    """Create a session that lives for a number of seconds from now."""
    return partial(new_session, clock)
