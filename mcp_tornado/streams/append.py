"""Appending to the event log across outages of the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    stop_never,
    wait_exponential,
    wait_random,
)

from mcp_tornado.sessions import EventLog, SessionError
from mcp_tornado.sessions.encoding import encode

_T = TypeVar("_T")

_BARRIER_SECONDS: Final = 1.0


async def retry_while_unavailable(attempt: Callable[[], Awaitable[_T]], seconds: float | None) -> _T:
    """Try something again and again, and return its result.

    Args:
        attempt: Is awaited anew each time that it has raised `SessionError`.
        seconds: For how long; `None` until it succeeds.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(SessionError),
        stop=stop_never if seconds is None else stop_after_delay(seconds),
        wait=wait_exponential(multiplier=0.1, max=2.0) + wait_random(0, 0.1),
        reraise=True,
    )
    return await retrying(attempt)


class StreamAppender:
    """Appends events once each, trying again while the store is away.

    Where an attempt failed it is not known whether the store took the event: before the next one the log is searched
    for it, after the newest event that is known.

    Args:
        log: The log.
        key: Whose events.
        stream: The stream.
        shared: Whether other processes write to the stream too. An equal event of theirs that is newer than the attempt
            is as good as ours: what says the same to the same client at the same time.
    """

    def __init__(self, log: EventLog, key: str, stream: str, *, shared: bool = False) -> None:
        self.key = key
        self.stream = stream
        self._log = log
        self._shared = shared
        self._newest: str | None = None
        """The newest event that is known to be in the log."""

    async def append(
        self,
        message: Mapping[str, Any] | None,
        *,
        final: bool = False,
        seconds: float | None = None,
        on_trouble: Callable[[], None] | None = None,
    ) -> str:
        """Append an event and return its id.

        Args:
            message: See `EventLog.append`.
            final: Whether the stream ends with it.
            seconds: For how long to try: 0 for once, `None` until it succeeds.
            on_trouble: Called when the first attempt has failed.

        Raises:
            SessionError: `STORE_UNAVAILABLE` still, after so long.
            SessionGone, StreamEnded, TypeError, ValueError: See `EventLog.append`.
        """
        tried, since = False, self._newest

        async def attempt() -> str:
            nonlocal tried, since
            if tried:
                found = await self._find(message, since)
                if found is not None:
                    return found
            elif self._shared:
                since = await self._pass_over()
            tried = True
            return await self._log.append(self.key, self.stream, message, final=final)

        try:
            event_id = await attempt()
        except SessionError:
            if on_trouble is not None:
                on_trouble()
            if seconds == 0:
                raise
            event_id = await retry_while_unavailable(attempt, seconds)
        self._newest = event_id
        return event_id

    async def _pass_over(self) -> str | None:
        """Find out what is the newest event, so that an equal one which is older is not taken for ours."""
        newest = self._newest
        while events := await self._log.read(self.key, newest, stream=self.stream):
            newest = events[-1].id
        self._newest = newest
        return newest

    async def _find(self, message: Mapping[str, Any] | None, since: str | None) -> str | None:
        """Return the id of an event that is in the log although nobody was told so."""
        # A write of ours: once it has come through, what we wrote before it is there to be read, or never will be.
        await self._log.claim(f"barrier:{self.stream}", self.stream, _BARRIER_SECONDS)
        wanted, after = encode(message), since
        while events := await self._log.read(self.key, after, stream=self.stream):
            for event in events:
                if encode(event.message) == wanted:
                    return event.id
            after = events[-1].id
        return None
