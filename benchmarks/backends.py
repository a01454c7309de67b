"""The stores that are compared, with their servers, and a count of the round trips to those."""

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

from benchmarks.servers import HOST, free_port, started


@dataclass(frozen=True, slots=True)
class Backend:
    """A store as it is named to the server."""

    name: str
    url: str
    """Where it has a server, `{port}` stands for the port."""
    port: int | None = None
    """The port of its server; `None` where it has none."""

    def at(self, port: int | None) -> str:
        """Return the URL, with its server or what stands before it at a port."""
        return self.url.format(port=port)


@contextmanager
def backends() -> Generator[list[Backend]]:
    """Start what the durable stores need, and give all stores that can be had here; the first is in memory."""
    with TemporaryDirectory() as folder, _redis(Path(folder)) as redis, _mongodb(Path(folder)) as mongodb:
        sqlite = Backend("sqlite", f"sqlite:///{folder}/sessions.db")
        yield [Backend("memory", "memory://"), sqlite, *redis, *mongodb]


@contextmanager
def _redis(folder: Path) -> Generator[list[Backend]]:
    server = shutil.which("redis-server")
    if server is None:
        yield []
        return
    port = free_port()
    options = ("--dir", folder, "--save", "", "--appendonly", "yes", "--loglevel", "warning")
    with started([server, "--port", str(port), *options], port, "redis-server", cwd=folder):
        yield [Backend("redis", f"redis://{HOST}:{{port}}/0", port)]


@contextmanager
def _mongodb(folder: Path) -> Generator[list[Backend]]:
    server = shutil.which("nx-27017", path=Path(sys.executable).parent)
    if server is None:
        yield []
        return
    port = free_port()
    options = ("--data-dir", folder / "nx", "--log-file", folder / "nx.log", "--pid-file", folder / "nx.pid")
    with started([server, "-p", str(port), *options], port, "nx-27017", cwd=folder, stderr=subprocess.DEVNULL):
        # The name says that it is no mongod: only the round trips are what they would be there.
        yield [Backend("mongodb (on nx-27017)", f"mongodb://{HOST}:{{port}}/bench", port)]


class RoundTrips:
    """How often something was sent to a server that had answered before."""

    def __init__(self) -> None:
        self.count = 0


@asynccontextmanager
async def counted(port: int) -> AsyncGenerator[tuple[int, RoundTrips]]:
    """Stand before a server: give the port to connect to instead, and the count of what goes through."""
    trips = RoundTrips()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server_reader, server_writer = await asyncio.open_connection(HOST, port)
        answered = True

        async def there() -> None:
            nonlocal answered
            while data := await reader.read(65_536):
                trips.count += answered
                answered = False
                server_writer.write(data)

        async def back() -> None:
            nonlocal answered
            while data := await server_reader.read(65_536):
                answered = True
                writer.write(data)

        pumps = [asyncio.ensure_future(there()), asyncio.ensure_future(back())]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        server_writer.close()
        writer.close()
        tasks.discard(task)

    proxy = await asyncio.start_server(serve, HOST, 0)
    yield proxy.sockets[0].getsockname()[1], trips
    proxy.close()
    # Whoever was connected has hung up by now.
    await asyncio.gather(*tasks)
