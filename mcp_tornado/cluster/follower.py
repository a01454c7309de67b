"""Following the log of a process, or of all processes, message by message."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, EventLog, SessionError

_log = get_logger(__name__)

_WAIT_SECONDS: Final = 5.0
"""After so long without anything new, at the latest, it is checked that the log is still the one that was read."""
_RETRY_SECONDS: Final = (0.1, 2.0)
"""The first and the longest pause while the store is away."""
_REMEMBERED: Final = 4096
"""How many messages are known again when they are read once more."""

Take = Callable[[Mapping[str, Any]], Awaitable[None]]


class LogFollower:
    """Hands on each message of a log once, in order, from now on, across outages of the store.

    Messages carry an `id` of their own. The numbers of the log do not tell what was read already: they begin anew
    where the log was removed (after this process was taken for dead) or the store has lost it.

    Args:
        log: The log.
        key: Whose log: that of a process (`@…`).
        take: Is awaited for each message; what it raises is logged.
    """

    def __init__(self, log: EventLog, key: str, take: Take) -> None:
        self._log = log
        self._key = key
        self._take = take
        self._after: str | None = None
        self._seen: OrderedDict[str, None] = OrderedDict()

    async def skip(self) -> None:
        """Pass over what is in the log already.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        while events := await self._log.read(self._key, self._after):
            for event in events:
                self._after = event.id
                self._is_new(event.message)

    async def follow(self) -> None:
        """Follow until cancelled."""
        shortest, longest = _RETRY_SECONDS
        pause = shortest
        while True:
            try:
                if not await self._read():
                    await self._check()
                await self._log.wait(self._key, self._after, _WAIT_SECONDS)
                pause = shortest
            except Exception:  # the guard of the store has logged it
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
                self.rewind()

    def rewind(self) -> None:
        """Read the log from its beginning at the next turn; what was handed on is not handed on again."""
        self._after = None

    async def _read(self) -> bool:
        """Hand on what is new; say whether there was anything."""
        before = self._after
        while events := await self._log.read(self._key, self._after):
            for event in events:
                self._after = event.id
                if event.message is not None and self._is_new(event.message):
                    await self._hand_on(event.message)
        return self._after != before

    async def _hand_on(self, message: Mapping[str, Any]) -> None:
        try:
            await self._take(message)
        except Exception as error:
            if isinstance(error, SessionError) and error.code is ErrorCode.STORE_UNAVAILABLE:
                raise
            _log.exception("mail.failed", kind=message.get("kind"))

    async def _check(self) -> None:
        """Read from the beginning where that is something that was never read: the log is another one."""
        oldest = await self._log.read(self._key, None, limit=1)
        if oldest and oldest[0].message is not None and oldest[0].message.get("id") not in self._seen:
            self.rewind()
            await self._read()

    def _is_new(self, message: Mapping[str, Any] | None) -> bool:
        message_id = str((message or {}).get("id"))
        if message_id in self._seen:
            return False
        self._seen[message_id] = None
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True
