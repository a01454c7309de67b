"""The SQLite store for mcp-tornado."""
