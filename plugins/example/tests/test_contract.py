"""The example keeps the contract of stores."""

from __future__ import annotations

import pytest
from jsonfiles_store import jsonfiles_store

from mcp_tornado.testing import EventLogContract, SessionStoreContract


class TestJsonFilesSessions(SessionStoreContract):
    @pytest.fixture
    def make_store(self, clock, tmp_path):
        return lambda **options: jsonfiles_store(f"jsonfiles:///{tmp_path}", options, clock)


class TestJsonFilesEvents(EventLogContract):
    @pytest.fixture
    def make_store(self, clock, tmp_path):
        return lambda **options: jsonfiles_store(f"jsonfiles:///{tmp_path}", options, clock)
