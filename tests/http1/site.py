"""The HTTP server on a port of its own, with the clients and the handler state of one test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.testing import bind_unused_port

from mcp_tornado.http1 import Server
from mcp_tornado.http1.connection import Connection
from mcp_tornado.http1.exchange import Exchange
from tests.http1.client import Client, Response
from tests.http1.handlers import HandlerState, make_application

_TEST_TIMEOUT_SECONDS = 60
_WAIT_TIMEOUT_SECONDS = 30


class ObservedServer(Server):
    """A server that sets an event whenever one of its connections changes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.changed = asyncio.Event()


class ObservedConnection(Connection):
    """A connection that reports each change of its state to its server."""

    received_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.changed.set()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.received_bytes += len(data)
        self._server.changed.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._server.changed.set()

    def finish_exchange(self, exchange: Exchange) -> None:
        super().finish_exchange(exchange)
        self._server.changed.set()

    def update_reading(self) -> None:
        super().update_reading()
        self._server.changed.set()


class Site:
    """A running server and its clients."""

    def __init__(self, server: ObservedServer, port: int, state: HandlerState) -> None:
        self.server = server
        self.port = port
        self.state = state
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def fetch(self, path: str, *headers: str) -> Response:
        """Send a GET request on a new connection, and return the response."""
        client = await self.connect()
        client.send_request(path, *headers)
        response = await client.read_response()
        await client.close()
        return response

    async def only_connection(self) -> ObservedConnection:
        """Wait until the server has one connection, and return it."""
        await self.wait_until(lambda: len(self.server.connections) == 1, "exactly one connection")
        (connection,) = self.server.connections
        return connection

    async def wait_until(self, condition: Callable[[], Any], description: str) -> None:
        """Wait for a state of the server or of a connection.

        Args:
            condition: Whether the state is reached; it is checked after each change of a connection.
            description: What the failure says is missing.
        """
        try:
            async with asyncio.timeout(_WAIT_TIMEOUT_SECONDS):
                while not condition():
                    self.server.changed.clear()
                    await self.server.changed.wait()
        except TimeoutError:
            pytest.fail(f"not reached in {_WAIT_TIMEOUT_SECONDS} seconds: {description}")

    async def wait_until_no_connections(self) -> None:
        await self.wait_until(lambda: not self.server.connections, "the server has no connections")

    async def serve_other_requests(self, count: int = 30) -> None:
        """Let the server answer requests of another client, so that it has time for what it must not do."""
        client = await self.connect()
        for _ in range(count):
            client.send_request("/echo")
            assert (await client.read_response()).status == 200
        await client.close()

    def check_timeouts(self, seconds: float) -> None:
        """Check the timeouts of all connections as if `seconds` had passed."""
        now = asyncio.get_running_loop().time() + seconds
        for connection in list(self.server.connections):
            connection.close_if_timed_out(now)


@asynccontextmanager
async def serving(*, xheaders: bool = False) -> AsyncGenerator[Site]:
    """Run a server; at the end, check that it leaves no connection, socket or task behind."""
    tasks_before = asyncio.all_tasks()
    state = HandlerState()
    server = ObservedServer(make_application(state), xheaders=xheaders)
    sock, port = bind_unused_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcp_tornado.http1.server.Connection", ObservedConnection)
        await server.listen([sock])
    site = Site(server, port, state)
    try:
        async with asyncio.timeout(_TEST_TIMEOUT_SECONDS):
            yield site
    finally:
        server.stop()
        await server.close_all_connections()
        state.release.set()
        for client in site.clients:
            client.abort()
        await _wait_for_tasks(tasks_before)
    assert server.connections == set()
    assert sock.fileno() == -1


async def _wait_for_tasks(tasks_before: set[asyncio.Task[Any]]) -> None:
    """Wait until only the given tasks run."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _WAIT_TIMEOUT_SECONDS
    while tasks := asyncio.all_tasks() - tasks_before:
        await asyncio.wait(tasks, timeout=deadline - loop.time())
        assert loop.time() < deadline, f"these tasks do not end: {tasks}"
