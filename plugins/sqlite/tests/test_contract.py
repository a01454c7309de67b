"""The SQLite store keeps the contract of stores."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from mcp_tornado_sqlite import sqlite_store

from mcp_tornado.testing import EventLogContract, SessionStoreContract


class OnAFile:
    """Stores on one file, in a folder that can be moved away and back: what an outage is to SQLite."""

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
        async def moved_away():
            elsewhere = folder.with_name("elsewhere")
            folder.rename(elsewhere)
            yield
            elsewhere.rename(folder)

        return moved_away()


class TestSQLiteSessions(OnAFile, SessionStoreContract):
    pass


class TestSQLiteEvents(OnAFile, EventLogContract):
    pass
