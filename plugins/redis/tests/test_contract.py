"""The contract tests of stores: on a server started here, over TLS, and on the deployment in TEST_REDIS_URL."""

from __future__ import annotations

import os
import secrets

import pytest
import redis
from mcp_tornado_redis import redis_store

from mcp_tornado.testing import EventLogContract, SessionStoreContract

DEPLOYMENT = os.environ.get("TEST_REDIS_URL")


class OnServer:
    @pytest.fixture
    def make_store(self, server, clock):
        return lambda **options: redis_store(server.url, options, clock)

    @pytest.fixture(params=["killed", "frozen"])
    def outage(self, request, server):
        return getattr(server, request.param)()


class OverTLS(OnServer):
    @pytest.fixture
    def server(self, tls_server):
        return tls_server


class OnDeployment:
    """Stores on a server that may hold other data: the tests use a random prefix, and delete all keys that have it."""

    @pytest.fixture
    def make_store(self, clock):
        prefix = f"mcp-tornado-test-{secrets.token_hex(8)}:"
        yield lambda **options: redis_store(DEPLOYMENT, {"prefix": prefix, **options}, clock)
        with redis.Redis.from_url(DEPLOYMENT) as client:
            for name in client.scan_iter(f"{prefix}*", count=1000):
                client.delete(name)


class TestRedisSessions(OnServer, SessionStoreContract):
    pass


class TestRedisEvents(OnServer, EventLogContract):
    pass


class TestRedisOverTLSSessions(OverTLS, SessionStoreContract):
    pass


class TestRedisOverTLSEvents(OverTLS, EventLogContract):
    pass


if DEPLOYMENT:

    class TestRedisDeploymentSessions(OnDeployment, SessionStoreContract):
        pass

    class TestRedisDeploymentEvents(OnDeployment, EventLogContract):
        pass
