"""The hosts that serve server.py for the suite: mcp-tornado and, as the control, the SDK alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.servers import run_process
from tests.chaos.processes import free_port
from tests.chaos.proxy import HOST, Proxy
from tests.chaos.records import Exchange
from tests.integration.cluster import run_cluster
from tests.integration.load_balancer import ports_of
from tests.integration.server_process import Server

SERVER: Final = Path(__file__).with_name("server.py")

_SHIPPED_DEFAULTS: Final[dict[str, Any]] = {"EVENTS__RETRY_MILLISECONDS": 1000, "EVENTS__STREAM_AFTER_SECONDS": 0.5}
"""The defaults of settings that `run_cluster` changes."""
_MIN_SHARE: Final = 0.7
"""The part of its equal share of the requests that each process must have got.

On a busy machine the proxy skips a process for a moment if it does not answer a probe in time.
"""


@dataclass(frozen=True, slots=True)
class Host:
    """A way to serve; `serving` runs the server and gives its URL."""

    name: str
    is_ours: bool
    serving: Callable[[], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def _ours_in_one_process() -> AsyncGenerator[str]:
    with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
        server = Server(f"{SERVER}:server", Path(directory), {})
        try:
            yield server.url
            server.stop()
        finally:
            server.close()


@asynccontextmanager
async def _ours_in_two_processes() -> AsyncGenerator[str]:
    with run_cluster("redis", size=2, app=f"{SERVER}:server", **_SHIPPED_DEFAULTS) as cluster:
        async with _run_proxy(ports_of(cluster)) as url:
            yield url


@asynccontextmanager
async def _sdk_in_one_process() -> AsyncGenerator[str]:
    with _sdk_processes(1) as ports:
        yield f"http://{HOST}:{ports[0]}/mcp"


@asynccontextmanager
async def _sdk_in_two_processes() -> AsyncGenerator[str]:
    with _sdk_processes(2) as ports:
        async with _run_proxy(ports) as url:
            yield url


OURS_IN_ONE: Final = Host("mcp-tornado, 1 process", True, _ours_in_one_process)
OURS_IN_TWO: Final = Host("mcp-tornado, 2 processes", True, _ours_in_two_processes)
SDK_IN_ONE: Final = Host("SDK, 1 process", False, _sdk_in_one_process)
SDK_IN_TWO: Final = Host("SDK, 2 processes", False, _sdk_in_two_processes)
HOSTS: Final = [OURS_IN_ONE, OURS_IN_TWO, SDK_IN_ONE, SDK_IN_TWO]


@contextmanager
def _sdk_processes(number: int) -> Generator[list[int]]:
    """Run the SDK's own HTTP app in several processes of uvicorn, and give their ports."""
    ports = [free_port() for _ in range(number)]
    with ExitStack() as stack:
        for port in ports:
            app = ("--app-dir", SERVER.parent, "--factory", f"{SERVER.stem}:server.streamable_http_app")
            address = ("--host", HOST, "--port", str(port))
            command = [sys.executable, "-m", "uvicorn", *app, *address]
            stack.enter_context(run_process(command, port, "uvicorn", cwd=SERVER.parent, stderr=subprocess.DEVNULL))
        yield ports


@asynccontextmanager
async def _run_proxy(ports: Sequence[int]) -> AsyncGenerator[str]:
    """Run a round-robin proxy and give its URL; at the end, check that each process got its share of the requests."""
    async with Proxy(ports) as proxy:
        yield proxy.url
        _assert_spread(proxy.records, len(ports))


def _assert_spread(records: Sequence[Exchange], processes: int) -> None:
    calls = [each for each in records if each.is_call]
    for kind, exchanges in (("requests", records), ("calls", calls)):
        for process in range(processes):
            count = sum(each.process == process for each in exchanges)
            minimum = _MIN_SHARE * len(exchanges) / processes
            assert count >= minimum, f"process {process} got {count} of {len(exchanges)} {kind}"
    processes_of: defaultdict[str, list[int | None]] = defaultdict(list)
    for each in records:
        if session := each.session or each.new_session:
            processes_of[session].append(each.process)
    several = [each for each in processes_of.values() if len(each) > 1]
    spread = [each for each in several if len(set(each)) > 1]
    minimum = _MIN_SHARE * len(several)
    assert len(spread) >= minimum, f"{len(spread)} of {len(several)} sessions were served by several processes"
