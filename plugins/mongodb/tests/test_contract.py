"""The contract of stores: in mongomock, and on nx-27017 with either driver."""

from __future__ import annotations

import pytest
from mcp_tornado_mongodb import mongodb_store

from mcp_tornado.testing import EventLogContract, SessionStoreContract


class OnMongomock:
    """In the memory of this process: no server that could fail, no other process that could wake."""

    @pytest.fixture
    def make_store(self, mongomocked):
        return mongomocked.make_store

    @pytest.fixture
    def outage(self):
        pytest.skip("mongomock has no server that could be out of reach; nx-27017 is tested with one")


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
