"""The contract of stores: in mongomock, on nx-27017 with either driver, and on a deployment that is named."""

from __future__ import annotations

import mongomock
import pytest
from mcp_tornado_mongodb import MongoStore, mongodb_store
from mongomock_motor import AsyncMongoMockClient

from mcp_tornado.stores import event_bounds
from mcp_tornado.testing import EventLogContract, SessionStoreContract


class OnMongomock:
    """In the memory of this process: no server that could fail, no other process that could wake."""

    @pytest.fixture
    def make_store(self, clock):
        data = mongomock.MongoClient()

        def connect():
            return AsyncMongoMockClient(mock_mongo_client=data)

        return lambda **options: MongoStore(clock, event_bounds(options), connect)

    @pytest.fixture
    def outage(self):
        pytest.skip("did not run: mongomock has no server that could be out of reach; nx-27017 is tested with one")


class OnNx:
    driver = "pymongo"

    @pytest.fixture
    def make_store(self, nx_url, clock):
        return lambda **options: mongodb_store(nx_url, {"driver": self.driver, **options}, clock)

    @pytest.fixture
    def outage(self, nx_outage):
        return nx_outage


class OnDeployment:
    driver = "pymongo"

    @pytest.fixture
    def make_store(self, deployment_url, clock):
        return lambda **options: mongodb_store(deployment_url, {"driver": self.driver, **options}, clock)

    @pytest.fixture
    def outage(self):
        pytest.skip("did not run: a deployment that is named cannot be taken away; nx-27017 is tested without one")


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


class TestDeploymentSessions(OnDeployment, SessionStoreContract):
    pass


class TestDeploymentEvents(OnDeployment, EventLogContract):
    pass


class TestDeploymentThroughMotorSessions(OnDeployment, SessionStoreContract):
    driver = "motor"


class TestDeploymentThroughMotorEvents(OnDeployment, EventLogContract):
    driver = "motor"
