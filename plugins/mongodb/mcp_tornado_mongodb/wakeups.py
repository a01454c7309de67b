"""Waking the tasks that wait for events, after a change by this process or by another one.

If the deployment has change streams, one on the collection `sessions` reports each change at once. If it has none (a
standalone server, or a user without the right), the store polls: one query asks for all keys that tasks wait for, and
the interval grows while there is nothing new.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ConnectionFailure

from mcp_tornado.stores import StoreUnavailable, Waiters
from mcp_tornado_mongodb.calls import Calls
from mcp_tornado_mongodb.deployment import Document

_log = logging.getLogger(__name__)

_KEYS_ONLY: Final[list[Mapping[str, Any]]] = [{"$project": {"documentKey": 1, "operationType": 1}}]
"""The pipeline of the change stream: the server reports the keys that changed, not the content of the documents."""
_MIN_POLL_SECONDS: Final = 0.02
_MAX_POLL_SECONDS: Final = 0.25
_POLL_SHARE: Final = 5
"""A query takes at most one part in this many of the time between the starts of two queries."""
_MAX_KEYS_PER_QUERY: Final = 1000
_EMPTY_ANSWER_SECONDS: Final = 0.01
"""Seconds to sleep after a server answers at once that there are no changes, although it should wait for changes."""
_READS_PER_TIMEOUT: Final = 12
"""Number of reads of the change stream in the timeout of a call. Closing waits until the current read has ended."""
_CLOSE_TIMEOUT_SECONDS: Final = 1.0
"""Seconds that the driver may take to close the change stream at the server."""
_FIRST_RETRY_SECONDS: Final = 0.1
_LAST_RETRY_SECONDS: Final = 5.0

Numbers = dict[str, int | None]
"""The number of the newest event of each key; `None` if the session is not live."""


class WakeUps:
    """The tasks of this process that wait for events, and the task that checks for changes.

    Args:
        sessions: The collection to watch.
        newest_numbers: Asks the server for the number of the newest event of each key.
        calls: Runs the calls of the driver.
    """

    def __init__(
        self,
        sessions: AsyncCollection[Document],
        newest_numbers: Callable[[Collection[str]], Awaitable[Numbers]],
        calls: Calls,
    ) -> None:
        self._sessions = sessions
        self._newest_numbers = newest_numbers
        self._calls = calls
        self._read_seconds = calls.timeout / _READS_PER_TIMEOUT
        self._waiters = Waiters()
        self._known_numbers: dict[str, int] = {}
        """For each key that tasks wait for, the number of the newest event when the first task began to wait."""
        self._has_waiters = asyncio.Event()
        self._streams_opened = 0
        self._stream: Any = None
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Wake all waiting tasks, and stop the check for changes."""
        self._waiters.wake_all()
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._calls.wait_until_done()
        await self._close_stream()

    def wake(self, key: str) -> None:
        """Wake the tasks that wait for a key."""
        self._known_numbers.pop(key, None)
        self._waiters.wake(key)

    async def wait(self, key: str, start: int | None, timeout: float) -> bool:
        """Wait for an event with a number above `start`, at most `timeout` seconds; see `EventLog.wait`.

        Args:
            key: The key whose events to wait for.
            start: The number; with `None`, only the end of the session ends the wait early.
            timeout: Seconds.
        """

        async def has_news() -> bool:
            while True:
                streams_opened = self._streams_opened
                number = (await self._newest_numbers([key]))[key]
                if number is None or (start is not None and start < number):
                    return True
                if streams_opened == self._streams_opened:
                    self._known_numbers.setdefault(key, number)
                    self._has_waiters.set()
                    return False
                # A stream was opened meanwhile. It may not report changes from before, and the check after the opening
                # did not include this key. So ask again.

        try:
            return await self._waiters.wait(key, timeout, has_news)
        finally:
            is_waited_for = key in self._waiters.keys()  # noqa: SIM118  (it is not a dict)
            if not is_waited_for:
                self._known_numbers.pop(key, None)
            if not self._known_numbers:
                self._has_waiters.clear()

    async def _run(self) -> None:
        """Follow a change stream or poll, for ever; start again after every failure."""
        now = asyncio.get_running_loop().time
        delay = _FIRST_RETRY_SECONDS
        while True:
            await self._has_waiters.wait()
            began = now()
            try:
                await self._calls.run(self._open_stream())
                if self._stream is None:
                    await self._poll()
                else:
                    await self._follow(self._stream)
            except StoreUnavailable as error:
                _log.warning("the changes in MongoDB cannot be followed, trying again: %s", error)
            except Exception:
                _log.exception("the changes in MongoDB cannot be followed, trying again")
            await self._close_stream()
            delay = _FIRST_RETRY_SECONDS if now() - began > _LAST_RETRY_SECONDS else min(2 * delay, _LAST_RETRY_SECONDS)
            await asyncio.sleep(delay)

    async def _open_stream(self) -> None:
        """Open a change stream; if the server refuses, the deployment has none and `_stream` stays `None`."""
        try:
            max_await_time_ms = int(self._read_seconds * 1000)
            stream = await await_if_needed(self._sessions.watch(_KEYS_ONLY, max_await_time_ms=max_await_time_ms))
            self._stream = await stream.__aenter__()  # Motor opens the stream only here
        except Exception as error:
            if isinstance(error, ConnectionFailure) or getattr(error, "timeout", False):
                raise
            _log.info("MongoDB has no change streams for this user (%s), so the store polls", type(error).__name__)
        else:
            self._streams_opened += 1

    async def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(StoreUnavailable):
                await self._calls.run(stream.close(), timeout=_CLOSE_TIMEOUT_SECONDS)

    async def _follow(self, stream: Any) -> None:
        """Wake the tasks that the changes of a stream concern; return when the stream has ended."""
        await self._check_all()
        while stream.alive:
            await self._calls.run(self._read_changes(stream))

    async def _read_changes(self, stream: Any) -> None:
        """Wake the tasks that the changes of a stream concern, for `_read_seconds`."""
        now = asyncio.get_running_loop().time
        end = now() + self._read_seconds
        while stream.alive and not self._task.done() and (asked := now()) < end:
            change = await stream.try_next()
            if change is not None:
                # A change of the whole collection has no key; it ends the stream.
                if "documentKey" in change:
                    self.wake(change["documentKey"]["_id"])
            elif now() - asked < _EMPTY_ANSWER_SECONDS:
                await asyncio.sleep(_EMPTY_ANSWER_SECONDS)

    async def _poll(self) -> None:
        """Check for changes at intervals, until a check fails."""
        now = asyncio.get_running_loop().time
        interval = _MIN_POLL_SECONDS
        while True:
            await self._has_waiters.wait()
            asked = now()
            interval = _MIN_POLL_SECONDS if await self._check_all() else min(2 * interval, _MAX_POLL_SECONDS)
            await asyncio.sleep(max(interval, (_POLL_SHARE - 1) * (now() - asked)))

    async def _check_all(self) -> bool:
        """Wake the tasks whose keys have a newer event or have ended; return whether there were any."""
        found = False
        keys = list(self._known_numbers)
        for start in range(0, len(keys), _MAX_KEYS_PER_QUERY):
            numbers = await self._newest_numbers(keys[start : start + _MAX_KEYS_PER_QUERY])
            for key, number in numbers.items():
                if key in self._known_numbers and self._known_numbers[key] != number:
                    self.wake(key)
                    found = True
        return found


async def await_if_needed(value: Any) -> Any:
    """Return the result of a call of the driver: PyMongo and Motor differ in which calls return an awaitable."""
    return await value if inspect.isawaitable(value) else value
