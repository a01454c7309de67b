"""Waking those who wait for events, when another process has appended one.

A change stream of the collection `sessions` tells at once, where the deployment has change streams. Where it has none
(a standalone server, a user without the right), one query asks for all keys at a time, the less often the longer
nothing is new.
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

_FEWEST: Final[list[Mapping[str, Any]]] = [{"$project": {"documentKey": 1, "operationType": 1}}]
"""Which keys changed is all that is asked of the server, not what was written."""
_SHORTEST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
_SHARE: Final = 5
"""At most this part of the time goes into asking."""
_AT_ONCE: Final = 1000
"""How many keys one query asks for."""
_EMPTY_AT_ONCE: Final = 0.01
"""Seconds to pause after a server that has nothing new says so at once, instead of waiting for something new."""
_HEARS_IN_LIMIT: Final = 12
"""How often the server is asked anew for what has changed, in the time a call may take. Closing waits for an answer."""
_CLOSE_LIMIT: Final = 1.0
"""Seconds the driver may take to tell the server that the stream is over."""
_FIRST_RETRY: Final = 0.1
_LAST_RETRY: Final = 5.0

Numbers = dict[str, int | None]
"""The number of each key's newest event; `None` where no session lives."""


class WakeUps:
    """Who waits in this process, and what wakes them.

    Args:
        sessions: The collection to watch.
        newest_numbers: Asks the server for the numbers of these keys' newest events.
        calls: Makes the calls of the driver.
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
        self._hears_for = calls.limit / _HEARS_IN_LIMIT
        self._waiters = Waiters()
        self._seen: dict[str, int] = {}
        """For each key that is waited for, the number of the newest event when the waiting began."""
        self._waited_for = asyncio.Event()
        self._openings = 0
        self._stream: Any = None
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop, and wake everybody."""
        self._waiters.wake_all()
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._calls.finished()
        await self._close_stream()

    def wake(self, key: str) -> None:
        """Wake those who wait for a key."""
        self._seen.pop(key, None)
        self._waiters.wake(key)

    async def wait(self, key: str, start: int | None, timeout: float) -> bool:
        """Wait for an event with a number above `start`, at most `timeout` seconds; see `EventLog.wait`.

        Args:
            key: Whose event.
            start: The number, or `None` where no event is one that is waited for.
            timeout: Seconds.
        """

        async def is_new() -> bool:
            while True:
                openings = self._openings
                number = (await self._newest_numbers([key]))[key]
                if number is None or (start is not None and start < number):
                    return True
                if openings == self._openings:
                    self._seen.setdefault(key, number)
                    self._waited_for.set()
                    return False
                # The stream was opened meanwhile: it may not tell of what came before, and who opened it did
                # not know of this key.

        try:
            return await self._waiters.wait(key, timeout, is_new)
        finally:
            others_wait = key in self._waiters.keys()  # noqa: SIM118  (it is no dict)
            if not others_wait:
                self._seen.pop(key, None)
            if not self._seen:
                self._waited_for.clear()

    async def _run(self) -> None:
        """Listen for changes, for ever, and begin anew after every interruption."""
        now = asyncio.get_running_loop().time
        retry = _FIRST_RETRY
        while True:
            await self._waited_for.wait()
            began = now()
            try:
                await self._calls.run(self._watch())
                if self._stream is None:
                    await self._poll()
                else:
                    await self._follow(self._stream)
            except StoreUnavailable as error:
                _log.warning("MongoDB tells of no changes: %s", error)
            except Exception:
                _log.exception("listening for changes in MongoDB failed")
            await self._close_stream()
            retry = _FIRST_RETRY if now() - began > _LAST_RETRY else min(2 * retry, _LAST_RETRY)
            await asyncio.sleep(retry)

    async def _watch(self) -> None:
        """Open a change stream, if the deployment has any: detected by trying."""
        try:
            stream = await settled(self._sessions.watch(_FEWEST, max_await_time_ms=int(self._hears_for * 1000)))
            self._stream = await stream.__aenter__()  # Motor opens it only now
        except Exception as error:
            if isinstance(error, ConnectionFailure) or getattr(error, "timeout", False):
                raise
            _log.info("MongoDB has no change streams for this user (%s): polling", type(error).__name__)
        else:
            self._openings += 1

    async def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(StoreUnavailable):
                await self._calls.run(stream.close(), limit=_CLOSE_LIMIT)

    async def _follow(self, stream: Any) -> None:
        """Wake whom a change stream tells of; return when it has ended."""
        await self._look()
        while stream.alive:
            await self._calls.run(self._hear(stream))

    async def _hear(self, stream: Any) -> None:
        """Wake whom a change stream tells of, for a short while."""
        now = asyncio.get_running_loop().time
        until = now() + self._hears_for
        while stream.alive and not self._task.done() and (asked := now()) < until:
            change = await stream.try_next()
            if change is not None:
                # What concerns the whole collection has no key, and ends the stream.
                if "documentKey" in change:
                    self.wake(change["documentKey"]["_id"])
            elif now() - asked < _EMPTY_AT_ONCE:
                await asyncio.sleep(_EMPTY_AT_ONCE)

    async def _poll(self) -> None:
        """Ask for news again and again, until that fails."""
        now = asyncio.get_running_loop().time
        pause = _SHORTEST_PAUSE
        while True:
            await self._waited_for.wait()
            asked = now()
            pause = _SHORTEST_PAUSE if await self._look() else min(2 * pause, _LONGEST_PAUSE)
            await asyncio.sleep(max(pause, (_SHARE - 1) * (now() - asked)))

    async def _look(self) -> bool:
        """Wake those for whom there is something new, and say whether there was any."""
        found = False
        keys = list(self._seen)
        for start in range(0, len(keys), _AT_ONCE):
            numbers = await self._newest_numbers(keys[start : start + _AT_ONCE])
            for key, number in numbers.items():
                if key in self._seen and self._seen[key] != number:
                    self.wake(key)
                    found = True
        return found


async def settled(value: Any) -> Any:
    """Return the result of a driver's call: some return it, some an awaitable of it."""
    return await value if inspect.isawaitable(value) else value
