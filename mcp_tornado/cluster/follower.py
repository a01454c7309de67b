"""Follow the log of one process, or of all processes, message by message.

The follower reads the log to its end, waits for new events, and reads again. A wake-up only says that the log may have
changed. The follower reads after every wait, so a lost wake-up delays a message but never loses it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mcp_tornado.log import get_logger
from mcp_tornado.sessions import ErrorCode, EventLog, SessionError

_log = get_logger(__name__)

_WAIT_SECONDS: Final = 5.0
"""Longest wait for new events. After it, the follower checks that the log was not replaced by a new one."""
_FIRST_RETRY_SECONDS: Final = 0.1
"""Pause after the first failed read. Each further failure doubles the pause."""
_MAX_RETRY_SECONDS: Final = 2.0
"""Longest pause between two attempts to read while the store is unavailable."""
_MAX_SEEN_IDS: Final = 4096
"""Number of message ids that the follower remembers, to recognize a message that it reads again."""

HandleMessage = Callable[[Mapping[str, Any]], Awaitable[None]]


class LogFollower:
    """Passes each message of a log to a handler, in order and at most once, also across outages of the store.

    A message that the log evicts before the follower reads it is never passed.

    Each message has an `id` of its own. Event ids do not tell which messages were read already: their numbers start
    again when the log was removed (because other processes took this process for dead) or when the store lost it.

    Args:
        log: The event log.
        key: The key of the log to follow: the mailbox of a process, or a log that all processes share (`@…`).
        handle: Awaited for each message. If it raises, the error is logged and the message is not passed again.
    """

    def __init__(self, log: EventLog, key: str, handle: HandleMessage) -> None:
        self._log = log
        self._key = key
        self._handle = handle
        self._last_read_id: str | None = None
        self._seen_ids: OrderedDict[str, None] = OrderedDict()

    async def seek_to_end(self) -> None:
        """Skip the messages that are in the log now.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        while events := await self._log.read(self._key, self._last_read_id):
            for event in events:
                self._last_read_id = event.id
                self._remember(event.message)

    async def follow(self) -> None:
        """Follow the log until cancelled."""
        pause = _FIRST_RETRY_SECONDS
        while True:
            try:
                if not await self._read():
                    await self._read_replaced_log()
                await self._log.wait(self._key, self._last_read_id, _WAIT_SECONDS)
                pause = _FIRST_RETRY_SECONDS
            except Exception:  # the store guard has logged the error
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_RETRY_SECONDS)
                self.seek_to_start()

    def seek_to_start(self) -> None:
        """Read the log from its beginning next time. Messages that were passed already are not passed again."""
        self._last_read_id = None

    async def _read(self) -> bool:
        """Pass the new messages to the handler. Return whether there were new events."""
        start = self._last_read_id
        while events := await self._log.read(self._key, self._last_read_id):
            for event in events:
                self._last_read_id = event.id
                if event.message is not None and self._remember(event.message):
                    await self._call_handler(event.message)
        return self._last_read_id != start

    async def _call_handler(self, message: Mapping[str, Any]) -> None:
        try:
            await self._handle(message)
        except Exception as error:
            if isinstance(error, SessionError) and error.code is ErrorCode.STORE_UNAVAILABLE:
                raise
            _log.exception("mail.failed", kind=message.get("kind"))

    async def _read_replaced_log(self) -> None:
        """Read the log from its beginning if its oldest message was never read: then it is a new log."""
        oldest = await self._log.read(self._key, None, limit=1)
        if oldest and oldest[0].message is not None and oldest[0].message.get("id") not in self._seen_ids:
            self.seek_to_start()
            await self._read()

    def _remember(self, message: Mapping[str, Any] | None) -> bool:
        """Remember a message by its id. Return whether it was not known before."""
        message_id = str((message or {}).get("id"))
        if message_id in self._seen_ids:
            return False
        self._seen_ids[message_id] = None
        while len(self._seen_ids) > _MAX_SEEN_IDS:
            self._seen_ids.popitem(last=False)
        return True
