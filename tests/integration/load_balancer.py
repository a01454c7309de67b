"""A round-robin load balancer in front of a cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
from mcp.client.client import Client

from tests.chaos.proxy import Proxy
from tests.integration.cluster import Cluster
from tests.integration.server_process import Server
from tests.integration.waiting import DEADLINE_SECONDS, wait_until


class LoadBalancer:
    """The one address of a cluster for its clients."""

    def __init__(self, cluster: Cluster, proxy: Proxy) -> None:
        self.servers = cluster.servers
        self._proxy = proxy

    @property
    def url(self) -> str:
        return self._proxy.url

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/mcp")

    async def server_that_got(self, message: Any) -> Server:
        """Wait until a server process has got a message or a batch, and return that process."""

        async def find_receivers() -> list[Server]:
            processes = [each.process for each in self._proxy.records if each.message == message]
            return [self.servers[process] for process in processes if process is not None]

        return (await wait_until(find_receivers, f"a process has got {message}"))[-1]

    def assert_spread(self) -> None:
        """Check that the requests of each session went to several processes; without sessions, all requests count."""
        processes_of: defaultdict[str, set[int]] = defaultdict(set)
        without_session: set[int] = set()
        for each in self._proxy.records:
            session = each.session or each.new_session
            if each.process is not None:
                (without_session if session is None else processes_of[session]).add(each.process)
        checked = processes_of or {"none": without_session}
        assert all(len(processes) > 1 for processes in checked.values()), checked


def ports_of(cluster: Cluster) -> list[int]:
    return [urlsplit(server.url).port or 0 for server in cluster.servers]


@asynccontextmanager
async def run_balancer(cluster: Cluster) -> AsyncGenerator[LoadBalancer]:
    """Run a load balancer in front of a cluster; at the end, check that it spread the requests of each session."""
    async with Proxy(ports_of(cluster)) as proxy:
        balancer = LoadBalancer(cluster, proxy)
        yield balancer
        balancer.assert_spread()


@asynccontextmanager
async def connect_client(balancer: LoadBalancer, **callbacks: Any) -> AsyncGenerator[Client]:
    """Connect a client of the SDK, in the handshake era, through a load balancer."""
    with anyio.fail_after(2 * DEADLINE_SECONDS):
        async with Client(balancer.url, mode="legacy", read_timeout_seconds=DEADLINE_SECONDS, **callbacks) as client:
            yield client
