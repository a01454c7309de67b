"""The SQLite store for mcp-tornado."""

from mcp_tornado_sqlite.store import SQLiteStore, sqlite_store

__all__ = ["SQLiteStore", "sqlite_store"]
