"""The MongoDB store for mcp-tornado."""

from mcp_tornado_mongodb.store import MongoStore, mongodb_store

__all__ = ["MongoStore", "mongodb_store"]
