"""The SQLite store passes the contract tests of stores."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from mcp_tornado_sqlite import sqlite_store

from mcp_tornado.testing import EventLogContract, SessionStoreContract


class OnAFile:
    """Stores on one file. An outage is simulated by moving its folder away and back."""

    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        return folder

    @pytest.fixture
    def make_store(self, folder, clock):
        return lambda **options: sqlite_store(f"sqlite:///{folder}/sessions.db", options, clock)

    @pytest.fixture
    def outage(self, folder):
        @asynccontextmanager
        async def move_folder_away():
            elsewhere = folder.with_name("elsewhere")
            folder.rename(elsewhere)
            yield
            elsewhere.rename(folder)

        return move_folder_away()


class TestSQLiteSessions(OnAFile, SessionStoreContract):
    pass


class TestSQLiteEvents(OnAFile, EventLogContract):
    pass
