"""The memory store passes the contract of stores."""

from __future__ import annotations

import pytest

from mcp_tornado.stores.memory import memory_store
from mcp_tornado.testing import EventLogContract, SessionStoreContract


class TestMemorySessions(SessionStoreContract):
    @pytest.fixture
    def make_store(self, clock):
        return lambda **options: memory_store("memory://", options, clock)


class TestMemoryEvents(EventLogContract):
    @pytest.fixture
    def make_store(self, clock):
        return lambda **options: memory_store("memory://", options, clock)
