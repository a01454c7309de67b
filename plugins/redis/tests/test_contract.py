"""The contract of stores: on a server of our own, with and without TLS, and on a deployment that is named."""

from __future__ import annotations

import pytest
from mcp_tornado_redis import redis_store

from mcp_tornado.testing import EventLogContract, SessionStoreContract


class OnServer:
    @pytest.fixture
    def make_store(self, redis_server, clock):
        redis_server.client().flushall()
        return lambda **options: redis_store(redis_server.url, options, clock)

    @pytest.fixture(params=["frozen", "killed"])
    def outage(self, request, redis_server):
        return getattr(redis_server, request.param)()


class TestRedisSessions(OnServer, SessionStoreContract):
    pass


class TestRedisEvents(OnServer, EventLogContract):
    pass
