"""Fixtures: a store, and a session in it."""

from __future__ import annotations

import pytest

from mcp_tornado.stores.memory import MemoryStore
from tests.state.helpers import new_session


@pytest.fixture
async def store(anyio_backend, clock):
    async with MemoryStore(clock) as store:
        yield store


@pytest.fixture
async def session(manager):
    return (await new_session(manager))[1]
