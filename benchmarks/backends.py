"""The stores that are compared, their servers, and a proxy that counts the round trips to a server."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.servers import HOST, find_free_port, run_process


@dataclass(frozen=True, slots=True)
class Backend:
    """A store, as it is configured in mcp-tornado."""

    name: str
    url: str
    """The URL of the store; `{port}` stands for the port of its server, if it has one."""
    port: int | None = None
    """The port of its server; `None` if it has none."""

    def url_at(self, port: int | None) -> str:
        """Return the URL with the port of the server, or of a proxy before the server."""
        return self.url.format(port=port)


@contextmanager
def start_backends() -> Generator[list[Backend]]:
    """Start the servers that are installed, and give the memory store, SQLite, and the stores on those servers."""
    with TemporaryDirectory() as folder, _start_redis(Path(folder)) as redis, _start_mongodb(Path(folder)) as mongodb:
        sqlite = Backend("sqlite", f"sqlite:///{folder}/sessions.db")
        yield [Backend("memory", "memory://"), sqlite, *redis, *mongodb]


@contextmanager
def _start_redis(folder: Path) -> Generator[list[Backend]]:
    server = shutil.which("redis-server")
    if server is None:
        yield []
        return
    port = find_free_port()
    options = ("--dir", folder, "--save", "", "--appendonly", "yes", "--loglevel", "warning")
    with run_process([server, "--port", str(port), *options], port, "redis-server", cwd=folder):
        yield [Backend("redis", f"redis://{HOST}:{{port}}/0", port)]


@contextmanager
def _start_mongodb(folder: Path) -> Generator[list[Backend]]:
    server = shutil.which("nx-27017", path=Path(sys.executable).parent)
    if server is None:
        yield []
        return
    port = find_free_port()
    options = ("--data-dir", folder / "nx", "--log-file", folder / "nx.log", "--pid-file", folder / "nx.pid")
    with run_process([server, "-p", str(port), *options], port, "nx-27017", cwd=folder, stderr=subprocess.DEVNULL):
        # The name shows that it is not mongod: only the number of round trips would be the same there.
        yield [Backend("mongodb (on nx-27017)", f"mongodb://{HOST}:{{port}}/bench", port)]


class RoundTrips:
    """A count of round trips: data that was sent to a server after its last answer."""

    def __init__(self) -> None:
        self.count = 0


@asynccontextmanager
async def count_round_trips(port: int) -> AsyncGenerator[tuple[int, RoundTrips]]:
    """Run a proxy before the server at this port; give the port of the proxy, and the count."""
    trips = RoundTrips()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server_reader, server_writer = await asyncio.open_connection(HOST, port)
        is_answered = True

        async def forward_requests() -> None:
            nonlocal is_answered
            while data := await reader.read(65_536):
                trips.count += is_answered
                is_answered = False
                server_writer.write(data)

        async def forward_answers() -> None:
            nonlocal is_answered
            while data := await server_reader.read(65_536):
                is_answered = True
                writer.write(data)

        directions = [asyncio.create_task(forward_requests()), asyncio.create_task(forward_answers())]
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for direction in directions:
            direction.cancel()
        server_writer.close()
        writer.close()
        tasks.discard(task)

    proxy = await asyncio.start_server(serve, HOST, 0)
    yield proxy.sockets[0].getsockname()[1], trips
    proxy.close()
    # All clients have closed their connections by now.
    await asyncio.gather(*tasks)
