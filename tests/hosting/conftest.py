"""Fixtures for the state of FastMCP servers. They need no running server."""

from __future__ import annotations

from collections import Counter

import pytest

from mcp_tornado.hosting.fastmcp_state import FastMCPState
from mcp_tornado.sessions import ClientInfo, StoreUnavailable
from mcp_tornado.stores.memory import MemoryStore


class CountingStore(MemoryStore):
    """A store that counts its operations and can be unavailable."""

    def __init__(self, clock):
        super().__init__(clock)
        self.operation_counts = Counter()
        self.is_available = True

    def _count(self, operation):
        self.operation_counts[operation] += 1
        if not self.is_available:
            raise StoreUnavailable("the test has made the store unavailable")

    async def create(self, session):
        self._count("create")
        await super().create(session)

    async def get(self, key):
        self._count("get")
        return await super().get(key)

    async def update(self, key, changes, expected_revision):
        self._count("update")
        return await super().update(key, changes, expected_revision)


@pytest.fixture
async def store(anyio_backend, clock):
    async with CountingStore(clock) as store:
        yield store


@pytest.fixture
async def session(manager):
    _, session = await manager.create(client=ClientInfo(), protocol_version="2025-11-25", client_params={})
    return session


@pytest.fixture
def fastmcp_state():
    """The state of a FastMCP server that is not mounted in another one."""
    return FastMCPState("")
