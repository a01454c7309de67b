"""The example keeps the contract of stores."""

from __future__ import annotations

import pytest
from jsonfile_store import JsonFileStore

from mcp_tornado.testing import EventLogContract, SessionStoreContract


class TestJsonFileSessions(SessionStoreContract):
    @pytest.fixture
    def make_store(self, clock, tmp_path):
        return lambda **options: JsonFileStore(f"jsonfile:///{tmp_path}/store.json", options, clock)


class TestJsonFileEvents(EventLogContract):
    @pytest.fixture
    def make_store(self, clock, tmp_path):
        return lambda **options: JsonFileStore(f"jsonfile:///{tmp_path}/store.json", options, clock)
