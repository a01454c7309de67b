"""The contract of stores, on the deployment that TEST_MONGODB_URL names: a real replica set, for example."""

from __future__ import annotations

import os

import pytest
from mcp_tornado_mongodb import mongodb_store

from mcp_tornado.testing import EventLogContract, SessionStoreContract

if not os.environ.get("TEST_MONGODB_URL"):
    pytest.skip(
        "no deployment to test on; name one in TEST_MONGODB_URL, for example that of docker/compose.yaml: "
        "docker compose -f docker/compose.yaml up --wait mongodb, and mongodb://127.0.0.1:27017/?replicaSet=rs0",
        allow_module_level=True,
    )


class OnDeployment:
    driver = "pymongo"

    @pytest.fixture
    def make_store(self, deployment_url, clock):
        return lambda **options: mongodb_store(deployment_url, {"driver": self.driver, **options}, clock)

    @pytest.fixture
    def outage(self):
        pytest.skip("a deployment that is named cannot be taken away; nx-27017 is, in test_contract.py")


class TestDeploymentSessions(OnDeployment, SessionStoreContract):
    pass


class TestDeploymentEvents(OnDeployment, EventLogContract):
    pass


class TestDeploymentThroughMotorSessions(OnDeployment, SessionStoreContract):
    driver = "motor"


class TestDeploymentThroughMotorEvents(OnDeployment, EventLogContract):
    driver = "motor"
