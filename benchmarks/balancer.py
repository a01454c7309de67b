"""The round-robin proxy of the chaos suite, in a process of its own: `python -m benchmarks.balancer PORT ...`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.chaos.proxy import Proxy

_CLEAR_INTERVAL_SECONDS = 1.0


@contextmanager
def run_balancer(ports: Sequence[int]) -> Generator[int]:
    """Run a proxy that sends each request to the next of the servers at these ports, and give the port of the proxy."""
    command = [sys.executable, "-m", "benchmarks.balancer", *map(str, ports)]
    # Leaving closes the standard input of the process, which ends it, and waits for its end.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


async def serve(ports: Sequence[int]) -> None:
    """Print the port, and serve until the standard input ends, because the parent process is done or has died."""
    async with Proxy(ports) as proxy:
        print(urlsplit(proxy.url).port, flush=True)
        input_ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not input_ended.done():
            await asyncio.wait([input_ended], timeout=_CLEAR_INTERVAL_SECONDS)
            # The records are not used here, and would make garbage collections longer.
            proxy.records.clear()


if __name__ == "__main__":
    asyncio.run(serve([int(port) for port in sys.argv[1:]]))
