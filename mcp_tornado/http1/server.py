"""The HTTP server: listens, checks timeouts and closes connections."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from tornado.httputil import HTTPServerConnectionDelegate

from mcp_tornado.http1.connection import Connection
from mcp_tornado.http1.limits import BACKLOG_CONNECTIONS, CLOSE_TIMEOUT_SECONDS, TIMEOUT_CHECK_SECONDS


class Server:
    """An HTTP/1.1 server for one application.

    Args:
        app: A `tornado.web.Application`.
        xheaders: Whether to use `X-Forwarded-For` and `X-Forwarded-Proto`, which a trusted proxy must set.
    """

    def __init__(self, app: HTTPServerConnectionDelegate, *, xheaders: bool = False) -> None:
        self.app: Final = app
        self.xheaders: Final = xheaders
        self.context: Final = contextvars.copy_context()
        self.connections: Final[set[Connection]] = set()
        self._servers: list[asyncio.Server] = []
        self._check_timer: asyncio.TimerHandle | None = None
        self._no_connections = asyncio.Event()

    async def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on sockets that are bound and listening."""
        loop = asyncio.get_running_loop()
        for listening in sockets:
            self._servers.append(
                await loop.create_server(partial(Connection, self), sock=listening, backlog=BACKLOG_CONNECTIONS)
            )
        if self._check_timer is None:
            self._check_timer = loop.call_later(TIMEOUT_CHECK_SECONDS, self._check_timeouts)

    def stop(self) -> None:
        """Accept no more connections; the open ones are still served."""
        for server in self._servers:
            server.close()
        if self._check_timer is not None:
            self._check_timer.cancel()

    async def close_all_connections(self) -> None:
        """Close all connections after their output is sent, at the latest after 2 seconds."""
        for connection in list(self.connections):
            connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._wait_until_closed()
        for connection in list(self.connections):
            connection.abort()
        await self._wait_until_closed()

    def add_connection(self, connection: Connection) -> None:
        """Add a connection that was accepted."""
        self.connections.add(connection)

    def remove_connection(self, connection: Connection) -> None:
        """Remove a connection that is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._no_connections.set()

    async def _wait_until_closed(self) -> None:
        self._no_connections.clear()
        if self.connections:
            await self._no_connections.wait()

    def _check_timeouts(self) -> None:
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            connection.close_if_timed_out(loop.time())
        self._check_timer = loop.call_later(TIMEOUT_CHECK_SECONDS, self._check_timeouts)
