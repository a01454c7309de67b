"""Running a third-party client, and observing its progress through the proxy."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import anyio

from tests.chaos.proxy import Proxy
from tests.chaos.records import Exchange
from tests.integration.cluster import Cluster
from tests.integration.load_balancer import LoadBalancer
from tests.integration.server_process import Server
from tests.integration.waiting import wait_until

_CLIENT_TIMEOUT_SECONDS: Final = 60.0


def assert_spread(cluster: Cluster, proxy: Proxy) -> None:
    """Check that several processes served the client."""
    if any(each.new_session for each in proxy.records):
        LoadBalancer(cluster, proxy).assert_spread()
    else:
        assert len({each.process for each in proxy.records}) == len(cluster.servers)


async def run_program(command: Sequence[str], home: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, with its own home directory for the files that it may create."""
    try:
        with anyio.fail_after(_CLIENT_TIMEOUT_SECONDS):
            return await anyio.run_process(
                command, stdin=subprocess.DEVNULL, check=False, cwd=home, env={"HOME": str(home), "LANG": "C.UTF-8"}
            )
    except TimeoutError:
        raise AssertionError(f"{command} did not end within {_CLIENT_TIMEOUT_SECONDS:g} s") from None


async def run_client(command: Sequence[str], home: Path) -> Any:
    """Run a client, which must succeed, and return the JSON that it prints."""
    completed = await run_program(command, home)
    assert completed.returncode == 0, completed.stderr.decode() or completed.stdout.decode()
    return json.loads(completed.stdout)


async def run_client_during(command: Sequence[str], home: Path, action: Callable[[], Awaitable[None]]) -> Any:
    """Do the same, and run an action meanwhile; the action is cancelled when the client ends."""
    output = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(action)
        output = await run_client(command, home)
        tasks.cancel_scope.cancel()
    return output


# ---------------------------------------------------------------- the records of the proxy


async def wait_for_call(proxy: Proxy, tool: str) -> Exchange:
    """Wait until the stream of a call of this tool has a message, and return the call."""

    async def find_call() -> Exchange | None:
        calls = (each for each in proxy.records if each.tool == tool and any(event.message for event in each.events))
        return next(calls, None)

    call = await wait_until(find_call, f"a call of {tool} has sent a message")
    assert call is not None
    return call


async def wait_for_resumption(proxy: Proxy, call: Exchange) -> None:
    """Wait until the client has resumed the stream of a call."""

    async def is_resumed() -> bool:
        event_ids = {event.id for event in call.events}
        return any(each.after in event_ids and each.status == 200 for each in proxy.records)

    await wait_until(is_resumed, f"the client has resumed the stream of {call.tool}")


def server_of(cluster: Cluster, call: Exchange) -> Server:
    """Return the process that runs a call."""
    assert call.process is not None
    return cluster.servers[call.process]


def open_gates(cluster: Cluster, call: Exchange) -> None:
    """Open the gates of the process that runs a call, so that the call continues."""
    server_of(cluster, call).send_signal(signal.SIGUSR1)
