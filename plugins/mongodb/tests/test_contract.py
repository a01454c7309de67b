"""The contract tests of stores: in mongomock, and on nx-27017 with both drivers."""

from __future__ import annotations

import pytest
from mcp_tornado_mongodb import mongodb_store

from mcp_tornado.testing import EventLogContract, SessionStoreContract


class OnMongomock:
    """Stores in the memory of this process: there is no server that could fail, and no other process."""

    @pytest.fixture
    def make_store(self, mongomock_backend):
        return mongomock_backend.make_store

    @pytest.fixture
    def outage(self):
        pytest.skip("mongomock has no server that could fail; an outage is tested with nx-27017")


class OnNx:
    driver = "pymongo"

    @pytest.fixture
    def make_store(self, nx_url, clock):
        return lambda **options: mongodb_store(nx_url, {"driver": self.driver, **options}, clock)

    @pytest.fixture
    def outage(self, nx_outage):
        return nx_outage


class TestMongomockSessions(OnMongomock, SessionStoreContract):
    pass


class TestMongomockEvents(OnMongomock, EventLogContract):
    pass


class TestNxSessions(OnNx, SessionStoreContract):
    pass


class TestNxEvents(OnNx, EventLogContract):
    pass


class TestNxThroughMotorSessions(OnNx, SessionStoreContract):
    driver = "motor"


class TestNxThroughMotorEvents(OnNx, EventLogContract):
    driver = "motor"
