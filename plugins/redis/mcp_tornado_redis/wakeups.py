"""Hearing of what is new, from this process and from others."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, cast

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as NoAnswer

from mcp_tornado.stores import Waiters
from mcp_tornado_redis.address import Address
from mcp_tornado_redis.failures import unavailable

_log = logging.getLogger(__name__)

_SILENCE: Final = 10.0
"""Seconds without a word after which the server is asked whether it is still there."""
_FIRST_RETRY: Final = 0.1
_LAST_RETRY: Final = 5.0


class WakeUps:
    """Who waits in this process, and the connection that tells what wakes them.

    A message on the channel is `<number>:<key>`: an event with this number was appended; without a number, the
    session has ended.
    """

    def __init__(self, address: Address, channel: str) -> None:
        self._address = address
        self._channel = channel
        self._connection = address.connection()
        self._waiters = Waiters()
        self._starts: dict[str, list[float]] = {}
        """For each key that is waited for, the numbers after which an event is new to those who wait."""
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            StoreUnavailable: The server cannot be listened to.
        """
        try:
            await self._subscribe()
        except (RedisError, OSError) as error:
            raise unavailable(self._address.name, error) from error
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop listening, and wake everybody."""
        self._waiters.wake_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._disconnect()

    def wake(self, key: str, number: int | None) -> None:
        """Wake those who wait for an event with this number, or for less; `None` wakes all who wait for the key."""
        if number is None or any(start < number for start in self._starts.get(key, ())):
            self._waiters.wake(key)

    async def wait(
        self, key: str, start: int | None, timeout: float, newest: Callable[[], Awaitable[int | None]]
    ) -> bool:
        """Wait for an event with a number above `start`, at most `timeout` seconds; see `EventLog.wait`.

        Args:
            key: Whose event.
            start: The number, or `None` where no event is one that is waited for.
            timeout: Seconds.
            newest: Asks the server for the number of the newest event: `None` where the session is not live.
        """
        first = start if start is not None else math.inf

        async def is_new() -> bool:
            number = await newest()
            return number is None or first < number

        starts = self._starts.setdefault(key, [])
        starts.append(first)
        try:
            return await self._waiters.wait(key, timeout, is_new)
        finally:
            starts.remove(first)
            if not starts:
                del self._starts[key]

    async def _run(self) -> None:
        """Listen for ever, and begin anew after every interruption, whatever it was."""
        while True:
            try:
                await self._follow()
            except Exception as error:
                told = unavailable(self._address.name, error)
                _log.warning("%s; until it can be listened to again, nobody is woken", told)
            await self._reconnect()
            _log.info("Redis at %s is listened to again", self._address.name)
            self._waiters.wake_all()  # what was said meanwhile, nobody has heard

    async def _reconnect(self) -> None:
        retry = _FIRST_RETRY
        while True:
            await self._disconnect()
            await asyncio.sleep(retry)
            retry = min(2 * retry, _LAST_RETRY)
            with suppress(Exception):
                return await self._subscribe()

    async def _subscribe(self) -> None:
        async with asyncio.timeout(self._address.limit):
            await self._connection.connect()
            await self._connection.send_command("SUBSCRIBE", self._channel)
            await self._connection.read_response()

    async def _disconnect(self) -> None:
        with suppress(RedisError, OSError):
            await self._connection.disconnect()

    async def _follow(self) -> None:
        """Wake whom the channel tells of, until the connection breaks or the server falls silent."""
        asked = False
        while True:
            timeout = self._address.answer_limit if asked else _SILENCE
            message = cast(list[bytes] | None, await self._connection.read_response(timeout=timeout))
            if message is not None:
                asked = False
                if message[0] == b"message":
                    self._hear(message[2])
            elif asked:
                raise NoAnswer
            else:
                # A health check of redis-py's own would not understand how a connection that listens answers.
                await self._connection.send_command("PING", check_health=False)
                asked = True

    def _hear(self, message: bytes) -> None:
        number, _, key = message.decode("utf-8", "surrogatepass").partition(":")
        self.wake(key, int(number) if number else None)
