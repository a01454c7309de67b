"""The MongoDB store for mcp-tornado."""
