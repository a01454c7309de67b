"""Running a client that others wrote, and following through the proxy how far it has come."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import anyio

from tests.chaos.proxy import Proxy
from tests.chaos.records import Exchange
from tests.integration.cluster import Cluster, Front
from tests.integration.conftest import DEADLINE, Server, until


def ports_of(cluster: Cluster) -> list[int]:
    return [int(server.url.rpartition(":")[2].partition("/")[0]) for server in cluster.servers]


def assert_spread(cluster: Cluster, proxy: Proxy) -> None:
    """Check that no client was served by one process alone."""
    if any(each.new_session for each in proxy.records):
        Front(cluster, proxy).assert_spread()
    else:
        assert len({each.process for each in proxy.records}) == len(cluster.servers)


async def outcome_of(command: Sequence[str], home: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, with a home of its own for what it may leave there."""
    with anyio.fail_after(2 * DEADLINE):
        return await anyio.run_process(
            command, stdin=subprocess.DEVNULL, check=False, cwd=home, env={"HOME": str(home), "LANG": "C.UTF-8"}
        )


async def output_of(command: Sequence[str], home: Path) -> Any:
    """Run a program, which must succeed, and return the JSON that it prints."""
    done = await outcome_of(command, home)
    assert done.returncode == 0, done.stderr.decode() or done.stdout.decode()
    return json.loads(done.stdout)


async def output_while(command: Sequence[str], home: Path, meanwhile: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    """Do the same, and do something else until it ends."""
    output = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(meanwhile)
        output = await output_of(command, home)
        tasks.cancel_scope.cancel()
    return output


# ---------------------------------------------------------------- what went through the proxy


async def call_of(proxy: Proxy, tool: str) -> Exchange:
    """Return the call of a tool whose stream has told something."""

    async def found() -> Exchange | None:
        told = (each for each in proxy.records if each.tool == tool and any(event.message for event in each.events))
        return next(told, None)

    return await until(found)


async def return_to(proxy: Proxy, call: Exchange) -> None:
    """Wait until the client has come back for the stream of a call."""

    async def returned() -> bool:
        known = {event.id for event in call.events}
        return any(each.after in known and each.status == 200 for each in proxy.records)

    await until(returned)


def server_of(cluster: Cluster, call: Exchange) -> Server:
    """Return the process that runs a call."""
    assert call.process is not None
    return cluster.servers[call.process]


def go_on(cluster: Cluster, call: Exchange) -> None:
    """Let a call go on that waits."""
    server_of(cluster, call).signal(signal.SIGUSR1)
