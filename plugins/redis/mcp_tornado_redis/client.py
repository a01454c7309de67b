"""Sending commands: over a bounded number of connections, in bounded time, and never twice where that would matter."""

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
from mcp_tornado_redis.failures import unavailable
from mcp_tornado_redis.scripts import Script

_MODE: Final = re.compile(rb"^(?:redis|server)_mode:(\w+)", re.MULTILINE)
_VERSION: Final = re.compile(rb"^redis_version:(\d+)", re.MULTILINE)
_OLDEST: Final = 7
"""The oldest major version that has what the scripts use."""


class Client:
    """The connections of one store, from entering it to leaving it; they are opened when they are needed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._pool = address.pool()
        self._slots = asyncio.Semaphore(self._pool.max_connections)
        self._under_way: set[asyncio.Timeout] = set()
        """The limits in time of the operations that have begun."""
        self._closed = False

    async def close(self) -> None:
        """Close all connections; what is under way fails."""
        self._closed = True
        # A connection must not be closed under who uses it: redis-py does not expect that.
        for limit in self._under_way:
            if not limit.expired():
                limit.reschedule(0)
        for _ in range(self._pool.max_connections):
            await self._slots.acquire()
        with suppress(RedisError, OSError):
            await self._pool.disconnect()

    async def check(self) -> None:
        """Check that the server is of a kind that the store can work with.

        Raises:
            StoreUnavailable: It is not, or it does not answer.
        """
        async with self._bounded():
            try:
                info: bytes = await self._send("INFO", "server", repeatable=True)
            except NoPermissionError:
                return  # then the first script shows it
        mode, version = _MODE.search(info), _VERSION.search(info)
        if mode is not None and mode[1] != b"standalone":
            found = f"runs as a {mode[1].decode()}: this store needs a single server, or the primary of replicas"
        elif version is not None and int(version[1]) < _OLDEST:
            found = f"has the version {version[1].decode()}: this store needs {_OLDEST}.0 or newer, or Valkey"
        else:
            return
        raise StoreUnavailable(f"Redis at {self._address.name} {found}")

    async def ping(self) -> None:
        """Return if the server answers.

        Raises:
            StoreUnavailable: It does not.
        """
        async with self._bounded():
            await self._send("PING", repeatable=True)

    async def run(self, script: Script, *arguments: str | bytes | int) -> Any:
        """Run a script and return its answer.

        Raises:
            StoreUnavailable: It failed, or it is not known whether it ran.
        """
        async with self._bounded():
            try:
                return await self._send("EVALSHA", script.sha, 0, *arguments, repeatable=script.repeatable)
            except NoScriptError:  # the server is new, or was restarted
                return await self._send("EVAL", script.text, 0, *arguments, repeatable=script.repeatable)

    @asynccontextmanager
    async def _bounded(self) -> AsyncGenerator[None]:
        limit = asyncio.timeout(self._address.limit)
        self._under_way.add(limit)
        try:
            async with limit, self._slots:
                yield
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            if self._closed:
                raise StoreUnavailable("the Redis store is closed") from error
            raise unavailable(self._address.name, error) from error
        finally:
            self._under_way.discard(limit)

    async def _send(self, *command: str | bytes | int, repeatable: bool) -> Any:
        """Send a command and return its answer.

        Where the connection breaks, it is sent once more if that does no harm: because it changes nothing, or because
        the server cannot have had the whole of it.
        """
        for is_last_try in (False, True):
            connection = await self._pool.get_connection()
            is_sent = False
            try:
                async with asyncio.timeout(self._address.answer_limit):
                    await connection.send_command(*command)
                    is_sent = True
                    return cast(Any, await connection.read_response())
            except BrokenConnection:
                if is_last_try or (is_sent and not repeatable):
                    raise
            finally:
                await self._pool.release(connection)
        raise AssertionError("unreachable")
