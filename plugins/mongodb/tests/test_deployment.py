"""The contract tests of stores on the deployment in TEST_MONGODB_URL, for example a replica set."""

from __future__ import annotations

import os

import pytest
from mcp_tornado_mongodb import mongodb_store

from mcp_tornado.testing import EventLogContract, SessionStoreContract

if not os.environ.get("TEST_MONGODB_URL"):
    pytest.skip(
        "TEST_MONGODB_URL names no deployment; for example, start the one in docker/compose.yaml: "
        "docker compose -f docker/compose.yaml up --wait mongodb, and set mongodb://127.0.0.1:27017/?replicaSet=rs0",
        allow_module_level=True,
    )


class OnDeployment:
    driver = "pymongo"

    @pytest.fixture
    def make_store(self, deployment_url, clock):
        return lambda **options: mongodb_store(deployment_url, {"driver": self.driver, **options}, clock)

    @pytest.fixture
    def outage(self):
        pytest.skip("these tests do not stop the deployment; an outage is tested with nx-27017, in test_contract.py")


class TestDeploymentSessions(OnDeployment, SessionStoreContract):
    pass


class TestDeploymentEvents(OnDeployment, EventLogContract):
    pass


class TestDeploymentThroughMotorSessions(OnDeployment, SessionStoreContract):
    driver = "motor"


class TestDeploymentThroughMotorEvents(OnDeployment, EventLogContract):
    driver = "motor"
