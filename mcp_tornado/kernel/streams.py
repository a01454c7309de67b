"""The streams of a session: their names, and following them in the event log."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_tornado.sessions import EventId, EventLog

STANDALONE: Final = "get"
"""What the server says unasked: the stream of GET `/mcp`."""
RESPONSE: Final = "post-"
"""How the name of a POST's stream begins."""
BACKGROUND: Final = "send-"
"""How the name of the stream of a call of `/mcp/send` begins."""


def new_stream(prefix: str) -> str:
    """Return a new name for a stream; request ids are no names, for clients reuse them."""
    return prefix + secrets.token_urlsafe(6)


def is_received(stream: str) -> bool:
    """Say whether `/mcp/receive` shows a stream: the standalone one, and those of `/mcp/send`."""
    return stream == STANDALONE or stream.startswith(BACKGROUND)


Alive = Callable[[str], Awaitable[bool]]
"""Says of a session's key whether the session lives."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What goes out on a stream: a message, or `None` for a priming event; `id` is `None` where none is logged."""

    id: str | None
    message: Mapping[str, Any] | None


class StreamReader:
    """Follows streams of a session in its event log, until a final event, the session's end, or `close`.

    Args:
        log: The log that is read.
        key: Whose events.
        after: The event to start after; `None` for the oldest kept.
        alive: Says whether the session still lives.
        shows: Which streams are shown.
        follows_one: Whether one stream is shown, so that its final event is the end.
    """

    def __init__(
        self,
        log: EventLog,
        key: str,
        *,
        after: str | None,
        alive: Alive,
        shows: Callable[[str], bool],
        follows_one: bool = False,
    ) -> None:
        self.key = key
        self.follows_one = follows_one
        self._log = log
        self._after = after
        self._alive = alive
        self._shows = shows
        self._farewell: Frame | None = None
        self._closed = False
        self._abandoned = False
        self._waiting: asyncio.Future[bool] | None = None

    def close(self, farewell: Mapping[str, Any] | None = None, *, at_once: bool = False) -> None:
        """End the reading.

        Args:
            farewell: A last message that is not in the log.
            at_once: Leave out what is in the log but was not read yet: somebody else reads it now.
        """
        self._closed = True
        self._abandoned = self._abandoned or at_once
        if farewell is not None:
            self._farewell = Frame(None, farewell)
        if self._waiting is not None:
            self._waiting.cancel()

    async def frames(self, keepalive: float) -> AsyncGenerator[Frame | None]:
        """Yield the frames as they come, and `None` whenever `keepalive` seconds pass without one.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        now = asyncio.get_running_loop().time
        due = now() + keepalive
        woken = False
        while not self._abandoned:
            events = await self._log.read(self.key, self._after)
            for event in events:
                self._after = event.id
                if self._shows(event.stream):
                    yield Frame(event.id, event.message)
                    due = now() + keepalive
                    if self._abandoned:
                        break
                    if event.final and self.follows_one:
                        return
            if events:
                woken = False
                continue
            # Woken for nothing: the session may have ended, here or elsewhere.
            if self._closed or (woken and not await self._alive(self.key)):
                break
            woken = await self._wait(max(0.0, due - now()))
            if not woken:
                yield None
                due = now() + keepalive
        if self._farewell is not None:
            yield self._farewell

    async def _wait(self, keepalive: float) -> bool:
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


def just_before(event_id: str) -> str | None:
    """Return an id to start after so that this event is the first one read."""
    found = EventId.parse(event_id)
    if found is None or found.number <= 1:
        return None
    return str(EventId(found.number - 1, found.session, found.stream))
