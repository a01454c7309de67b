"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager

import pytest

from tests.integration.cluster import Cluster
from tests.integration.load_balancer import LoadBalancer, run_balancer
from tests.integration.server_process import EVERYTHING, Server, StartServer


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> StartServer:
    """Return a context manager that runs a server: `with start_server(SERVER__PORT=1) as server`."""

    @contextmanager
    def start(app: str = EVERYTHING, *, exit_code: int = 0, **settings: object) -> Generator[Server]:
        defaults = {"LOG__LEVEL": "INFO", "SERVER__SHUTDOWN_GRACE_SECONDS": 5}
        server = Server(app, tmp_path_factory.mktemp("server"), {**defaults, **settings})
        try:
            assert server.url
            yield server
            server.stop(exit_code)
        finally:
            server.close()

    return start


@pytest.fixture
async def balancer(cluster: Cluster) -> AsyncGenerator[LoadBalancer]:
    """A load balancer in front of the module's `cluster`."""
    async with run_balancer(cluster) as balancer:
        yield balancer
