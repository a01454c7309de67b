"""The Redis store for mcp-tornado."""
