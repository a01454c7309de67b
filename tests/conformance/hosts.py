"""The ways in which server.py is served while the suite runs: by us and, as the control, by the SDK alone."""

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
from urllib.parse import urlsplit

from benchmarks.servers import run_process
from tests.chaos.processes import free_port
from tests.chaos.proxy import HOST, Proxy
from tests.chaos.records import Exchange
from tests.integration.cluster import cluster_on
from tests.integration.conftest import Server

SERVER: Final = Path(__file__).with_name("server.py")

_AS_SHIPPED: Final[dict[str, Any]] = {"EVENTS__RETRY_MILLISECONDS": 1000, "EVENTS__STREAM_AFTER_SECONDS": 0.5}
"""Settings that clusters in tests have changed otherwise."""
_FAIR_SHARE: Final = 0.7
"""How much of its share of the requests each process must have got; on a busy machine the proxy takes one that does
not answer in time for dead, and passes it over for a moment."""


@dataclass(frozen=True, slots=True)
class Host:
    """A way to serve; `serving` gives the address while it does."""

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
    with cluster_on("redis", size=2, app=f"{SERVER}:server", **_AS_SHIPPED) as cluster:
        ports = [urlsplit(server.url).port or 0 for server in cluster.servers]
        async with _round_robin(ports) as url:
            yield url


@asynccontextmanager
async def _sdk_in_one_process() -> AsyncGenerator[str]:
    with _sdk_processes(1) as ports:
        yield f"http://{HOST}:{ports[0]}/mcp"


@asynccontextmanager
async def _sdk_in_two_processes() -> AsyncGenerator[str]:
    with _sdk_processes(2) as ports:
        async with _round_robin(ports) as url:
            yield url


OURS_IN_ONE: Final = Host("mcp-tornado, 1 process", True, _ours_in_one_process)
OURS_IN_TWO: Final = Host("mcp-tornado, 2 processes", True, _ours_in_two_processes)
SDK_IN_ONE: Final = Host("SDK, 1 process", False, _sdk_in_one_process)
SDK_IN_TWO: Final = Host("SDK, 2 processes", False, _sdk_in_two_processes)
HOSTS: Final = [OURS_IN_ONE, OURS_IN_TWO, SDK_IN_ONE, SDK_IN_TWO]


@contextmanager
def _sdk_processes(number: int) -> Generator[list[int]]:
    """Run the SDK's own HTTP app in processes of uvicorn, and give their ports."""
    ports = [free_port() for _ in range(number)]
    with ExitStack() as stack:
        for port in ports:
            app = ("--app-dir", SERVER.parent, "--factory", f"{SERVER.stem}:server.streamable_http_app")
            where = ("--host", HOST, "--port", str(port))
            command = [sys.executable, "-m", "uvicorn", *app, *where]
            stack.enter_context(run_process(command, port, "uvicorn", cwd=SERVER.parent, stderr=subprocess.DEVNULL))
        yield ports


@asynccontextmanager
async def _round_robin(ports: Sequence[int]) -> AsyncGenerator[str]:
    """Give an address from which each request goes to the next process; in the end each must have got its share."""
    async with Proxy(ports) as proxy:
        yield proxy.url
        _assert_spread(proxy.records, len(ports))


def _assert_spread(records: Sequence[Exchange], processes: int) -> None:
    calls = [each for each in records if each.is_call]
    for what, exchanges in (("requests", records), ("calls", calls)):
        for process in range(processes):
            got = sum(each.process == process for each in exchanges)
            assert got >= _FAIR_SHARE * len(exchanges) / processes, f"{process} got {got} of {len(exchanges)} {what}"
    met: defaultdict[str, list[int | None]] = defaultdict(list)
    for each in records:
        if session := each.session or each.new_session:
            met[session].append(each.process)
    several = [each for each in met.values() if len(each) > 1]
    spread = [each for each in several if len(set(each)) > 1]
    assert len(spread) >= _FAIR_SHARE * len(several), f"of {len(several)} sessions, {len(spread)} met several processes"
