"""Sending commands over a bounded number of connections and in bounded time; a command that writes is not repeated."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

from redis.exceptions import ConnectionError as BrokenConnection
from redis.exceptions import NoPermissionError, NoScriptError, RedisError

from mcp_tornado.stores import StoreUnavailable
from mcp_tornado_redis.address import Address
from mcp_tornado_redis.failures import translate_error
from mcp_tornado_redis.scripts import Script

_MODE: Final = re.compile(rb"^(?:redis|server)_mode:(\w+)", re.MULTILINE)
_VERSION: Final = re.compile(rb"^redis_version:(\d+)", re.MULTILINE)
_MIN_MAJOR_VERSION: Final = 7
"""The oldest major version of Redis that has the commands of the scripts."""


class Client:
    """The connections of an open store; each is opened when it is needed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._pool = address.make_pool()
        self._slots = asyncio.Semaphore(self._pool.max_connections)
        self._running: set[asyncio.Timeout] = set()
        """The timeouts of the operations that have begun."""
        self._is_closed = False

    async def close(self) -> None:
        """Close all connections; running operations fail."""
        self._is_closed = True
        # End the operations first: redis-py does not expect that a connection is closed while it is in use.
        for timeout in self._running:
            if not timeout.expired():
                timeout.reschedule(0)
        for _ in range(self._pool.max_connections):
            await self._slots.acquire()
        with suppress(RedisError, OSError):
            await self._pool.disconnect()

    async def check_server(self) -> None:
        """Check that the store can work with this kind and version of server.

        Raises:
            StoreUnavailable: It cannot, or the server does not answer.
        """
        async with self._run_operation():
            try:
                info: bytes = await self._send_command("INFO", "server", is_repeatable=True)
            except NoPermissionError:
                return  # the first script fails if the server cannot be used
        mode, version = _MODE.search(info), _VERSION.search(info)
        if mode is not None and mode[1] != b"standalone":
            problem = f"runs as a {mode[1].decode()}: this store needs a single server, or the primary of replicas"
        elif version is not None and int(version[1]) < _MIN_MAJOR_VERSION:
            problem = (
                f"has the version {version[1].decode()}: this store needs {_MIN_MAJOR_VERSION}.0 or newer, or Valkey"
            )
        else:
            return
        raise StoreUnavailable(f"Redis at {self._address.name} {problem}")

    async def ping(self) -> None:
        """Return if the server answers.

        Raises:
            StoreUnavailable: The server does not answer.
        """
        async with self._run_operation():
            await self._send_command("PING", is_repeatable=True)

    async def run(self, script: Script, *arguments: str | bytes | int) -> Any:
        """Run a script and return its answer.

        Raises:
            StoreUnavailable: The script failed, or it is not known whether it ran.
        """
        async with self._run_operation():
            try:
                return await self._send_command(
                    "EVALSHA", script.sha, 0, *arguments, is_repeatable=script.is_repeatable
                )
            except NoScriptError:  # the server is new, or was restarted
                return await self._send_command("EVAL", script.text, 0, *arguments, is_repeatable=script.is_repeatable)

    @asynccontextmanager
    async def _run_operation(self) -> AsyncGenerator[None]:
        """Wait for a free connection, limit the time of the block, and translate its errors."""
        timeout = asyncio.timeout(self._address.operation_timeout)
        self._running.add(timeout)
        try:
            async with timeout, self._slots:
                yield
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            if self._is_closed:
                raise StoreUnavailable("the Redis store is closed") from error
            raise translate_error(self._address.name, error) from error
        finally:
            self._running.discard(timeout)

    async def _send_command(self, *command: str | bytes | int, is_repeatable: bool) -> Any:
        """Send a command and return its answer.

        If the connection breaks, the command is sent once more, but only if it is repeatable or if the server cannot
        have received the whole command.
        """
        for is_last_attempt in (False, True):
            connection = await self._pool.get_connection()
            is_sent = False
            try:
                async with asyncio.timeout(self._address.response_timeout):
                    await connection.send_command(*command)
                    is_sent = True
                    return cast(Any, await connection.read_response())
            except BrokenConnection:
                if is_last_attempt or (is_sent and not is_repeatable):
                    raise
            finally:
                await self._pool.release(connection)
        raise AssertionError("unreachable")
