"""Reading the streams of a session from its event log, as new events come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from mcp_tornado.sessions import EventId, EventLog
from mcp_tornado.streams.frames import Frame

IsAlive = Callable[[str], Awaitable[bool]]
"""Says of a session's key whether the session lives; where it does not, its readers are closed soon."""

OnIdle = Callable[[str | None], Awaitable[bool]]
"""Looks after what is read, given the last event that was read; says whether it may have written something."""
_TEND_SECONDS: Final = 1.0
"""How often a reader with nothing to read looks after what it reads."""


class StreamReader:
    """Follows streams of a session in its event log, until a final event, the session's end, or `close`.

    Args:
        log: The log that is read.
        key: Whose events.
        after: The event to start after; `None` for the oldest kept.
        alive: Says whether the session still lives.
        shows: Which streams are shown.
        follows_one: Whether one stream is shown, so that its final event is the end.
        lost: The last messages of a reader that follows one stream, where the bounds have evicted what it was to
            read next; without any it goes on with the oldest event kept.
        tend: Is called every now and then while there is nothing to read.
        polled: Whether its client knows that it is to come back where the stream goes on (MCP 2025-11-25,
            basic/transports).
    """

    def __init__(
        self,
        log: EventLog,
        key: str,
        *,
        after: str | None,
        alive: IsAlive,
        shows: Callable[[str], bool],
        follows_one: bool = False,
        lost: Sequence[Mapping[str, Any]] = (),
        tend: OnIdle | None = None,
        polled: bool = False,
    ) -> None:
        self.key = key
        self._follows_one = follows_one
        self._log = log
        self._after = after
        self._alive = alive
        self._shows = shows
        self._lost = lost
        self._tend = tend
        self._polled = polled
        self._closed = False
        self._abandoned = False
        self._goes_on = False
        self._waiting: asyncio.Future[bool] | None = None

    @property
    def ends_with_a_call(self) -> bool:
        """Whether a call that runs in this process ends what is read."""
        return self._follows_one and self._tend is None

    def close(self, *, at_once: bool = False, goes_on: bool = False) -> None:
        """See `FrameReader.close`; `goes_on`: the stream does not end, and its client is to come back."""
        self._closed = True
        self._abandoned = self._abandoned or at_once
        self._goes_on = self._goes_on or goes_on
        if self._waiting is not None:
            self._waiting.cancel()

    async def frames(self, keepalive: float) -> AsyncGenerator[Frame | None]:
        """See `FrameReader.frames`.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        now = asyncio.get_running_loop().time
        due = now() + keepalive
        tend_at = now()
        woken = False
        while not self._abandoned:
            if self._lost and await self._evicted():
                for message in self._lost:
                    yield Frame(None, message)
                return
            events = await self._log.read(self.key, self._after)
            for event in events:
                self._after = event.id
                if self._shows(event.stream):
                    yield Frame(event.id, event.message)
                    due = now() + keepalive
                    if self._abandoned:
                        break
                    if event.final and self._follows_one:
                        return
            if events:
                woken = False
                continue
            if self._closed:
                if self._goes_on and self._polled:
                    yield Frame(None, None)
                break
            if self._tend is not None and now() >= tend_at:
                tend_at = now() + _TEND_SECONDS
                if await self._tend(self._after):
                    continue
            # Woken for nothing: the session may have ended, here or elsewhere. Then we are closed.
            ended = woken and not await self._alive(self.key)
            pause = due if self._tend is None else min(due, tend_at)
            woken = await self._wait(None if ended else max(0.0, pause - now()))
            if not woken and now() >= due:
                yield None
                due = now() + keepalive

    async def _evicted(self) -> bool:
        """Say whether the event to start after is no longer kept, and so perhaps not those that followed it."""
        oldest = await self._log.read(self.key, None, limit=1)
        after = EventId.parse(self._after) if self._after is not None else None
        kept_from = EventId.parse(oldest[0].id) if oldest else None
        return after is not None and kept_from is not None and kept_from.number > after.number

    async def _wait(self, keepalive: float | None) -> bool:
        if self._closed:
            return True
        if keepalive is None:
            self._waiting = asyncio.get_running_loop().create_future()
        else:
            self._waiting = asyncio.ensure_future(self._log.wait(self.key, self._after, keepalive))
        try:
            return await self._waiting
        except asyncio.CancelledError:
            if self._closed and self._waiting.cancelled():
                return True
            self._waiting.cancel()
            raise
        finally:
            self._waiting = None
