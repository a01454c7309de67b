"""Waking the tasks that wait for events, after a change by this process or by another one."""

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
from mcp_tornado_redis.failures import translate_error

_log = logging.getLogger(__name__)

_PING_AFTER_SECONDS: Final = 10.0
"""Seconds without a message after which the server is pinged."""
_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 5.0


class WakeUps:
    """The tasks of this process that wait for events, and the subscription to the channel that wakes them.

    A message on the channel is `<number>:<key>`: an event with this number was appended. Without a number, the session
    has ended.
    """

    def __init__(self, address: Address, channel: str) -> None:
        self._address = address
        self._channel = channel
        self._connection = address.make_connection()
        self._waiters = Waiters()
        self._starts: dict[str, list[float]] = {}
        """For each waiting task, by key: the number after which an event is new to the task."""
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribe to the channel.

        Raises:
            StoreUnavailable: The subscription failed.
        """
        try:
            await self._subscribe()
        except (RedisError, OSError) as error:
            raise translate_error(self._address.name, error) from error
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Wake all waiting tasks, and close the connection."""
        self._waiters.wake_all()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._disconnect()

    def wake(self, key: str, number: int | None) -> None:
        """Wake the tasks that wait for this key, if the event with this number is new to one of them.

        Args:
            key: The key.
            number: The number of an event; `None` wakes all tasks that wait for the key.
        """
        if number is None or any(start < number for start in self._starts.get(key, ())):
            self._waiters.wake(key)

    async def wait(
        self, key: str, start: int | None, timeout: float, get_newest: Callable[[], Awaitable[int | None]]
    ) -> bool:
        """Wait for an event with a number above `start`, at most `timeout` seconds; see `EventLog.wait`.

        Args:
            key: The key whose events to wait for.
            start: The number; with `None`, only the end of the session ends the wait early.
            timeout: Seconds.
            get_newest: Asks the server for the number of the newest event, or `None` if the session is not live.
        """
        first = start if start is not None else math.inf

        async def has_news() -> bool:
            newest = await get_newest()
            return newest is None or first < newest

        starts = self._starts.setdefault(key, [])
        starts.append(first)
        try:
            return await self._waiters.wait(key, timeout, has_news)
        finally:
            starts.remove(first)
            if not starts:
                del self._starts[key]

    async def _run(self) -> None:
        """Read messages for ever; subscribe again after every failure."""
        while True:
            try:
                await self._read_messages()
            except Exception as error:
                failure = translate_error(self._address.name, error)
                _log.warning("%s; changes by other processes wake no task until the subscription is restored", failure)
            await self._reconnect()
            _log.info("the subscription to Redis at %s is restored", self._address.name)
            self._waiters.wake_all()  # messages that were sent meanwhile are lost

    async def _reconnect(self) -> None:
        delay = _FIRST_RETRY_SECONDS
        while True:
            await self._disconnect()
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_RETRY_SECONDS)
            with suppress(Exception):
                return await self._subscribe()

    async def _subscribe(self) -> None:
        async with asyncio.timeout(self._address.operation_timeout):
            await self._connection.connect()
            await self._connection.send_command("SUBSCRIBE", self._channel)
            await self._connection.read_response()

    async def _disconnect(self) -> None:
        with suppress(RedisError, OSError):
            await self._connection.disconnect()

    async def _read_messages(self) -> None:
        """Wake the tasks that the messages concern, until the connection breaks or a ping gets no answer."""
        awaits_pong = False
        while True:
            timeout = self._address.response_timeout if awaits_pong else _PING_AFTER_SECONDS
            message = cast(list[bytes] | None, await self._connection.read_response(timeout=timeout))
            if message is not None:
                awaits_pong = False
                if message[0] == b"message":
                    self._handle_message(message[2])
            elif awaits_pong:
                raise NoAnswer
            else:
                # Not by a health check of redis-py: it does not understand the answer on a subscribed connection.
                await self._connection.send_command("PING", check_health=False)
                awaits_pong = True

    def _handle_message(self, message: bytes) -> None:
        number, _, key = message.decode("utf-8", "surrogatepass").partition(":")
        self.wake(key, int(number) if number else None)
