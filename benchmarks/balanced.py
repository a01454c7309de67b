"""The chaos suite's round-robin proxy, in a process of its own: `python -m benchmarks.balanced PORT ...`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.chaos.proxy import Proxy

_CLEAR_SECONDS = 1.0


@contextmanager
def balanced(ports: Sequence[int]) -> Generator[int]:
    """Stand before servers, and give the port to connect to instead; each request goes to the next of them."""
    command = [sys.executable, "-m", "benchmarks.balanced", *map(str, ports)]
    # Leaving closes the pipe that it listens to, and waits for it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


async def serve(ports: Sequence[int]) -> None:
    """Print the port, and serve until standard input ends: whoever started this is done, or gone."""
    async with Proxy(ports) as proxy:
        print(urlsplit(proxy.url).port, flush=True)
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not ended.done():
            await asyncio.wait([ended], timeout=_CLEAR_SECONDS)
            # Nobody asks for them here, and they would only make garbage collections longer.
            proxy.records.clear()


if __name__ == "__main__":
    asyncio.run(serve([int(port) for port in sys.argv[1:]]))
