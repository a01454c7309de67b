"""The Redis store for mcp-tornado."""

from mcp_tornado_redis.store import RedisStore, redis_store

__all__ = ["RedisStore", "redis_store"]
