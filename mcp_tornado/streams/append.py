"""Append to the event log across outages of the store, each event at most once.

When an append fails, it is unknown whether the store has taken the event: the error may have come after the write.
Appending it again could double it. Before each further attempt the appender therefore

1. claims a short lease, the barrier. When this write has succeeded, the earlier append is decided: either its event can
   be read now, or the store will never take it.
2. searches the log for the event. It begins after the newest event that it knew before the first attempt.

If the event is found, its id is the result; else the appender appends it again.
"""

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


async def retry_while_unavailable(attempt: Callable[[], Awaitable[_T]], retry_seconds: float | None) -> _T:
    """Call a function until it no longer raises `SessionError`, with growing pauses, and return its result.

    Args:
        attempt: The function; it is called and awaited anew for each attempt.
        retry_seconds: For how long to retry before the last error is raised; `None` retries until an attempt succeeds.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(SessionError),
        stop=stop_never if retry_seconds is None else stop_after_delay(retry_seconds),
        wait=wait_exponential(multiplier=0.1, max=2.0) + wait_random(0, 0.1),
        reraise=True,
    )
    return await retrying(attempt)


class StreamAppender:
    """Appends events to one stream, each at most once, and retries while the store is unavailable.

    Args:
        log: The event log.
        key: The session's key.
        stream: The stream's name.
        shared: Whether other processes write to the stream too. If so, the search after a failed attempt also accepts
            an equal event of another process, if it was appended after the first attempt began. The client then gets
            one event with this message instead of two.
    """

    def __init__(self, log: EventLog, key: str, stream: str, *, shared: bool = False) -> None:
        self.key = key
        self.stream = stream
        self._log = log
        self._shared = shared
        self._newest_id: str | None = None
        """The newest event that is known to be in the log."""

    async def append(
        self,
        message: Mapping[str, Any] | None,
        *,
        final: bool = False,
        retry_seconds: float | None = None,
        on_first_failure: Callable[[], None] | None = None,
    ) -> str:
        """Append an event and return its id.

        Args:
            message: See `EventLog.append`.
            final: Whether the stream ends with the event.
            retry_seconds: For how long to retry: 0 for a single attempt, `None` until an attempt succeeds.
            on_first_failure: Called when the first attempt has failed because the store is unavailable.

        Raises:
            SessionError: `STORE_UNAVAILABLE`: the store was unavailable for `retry_seconds`.
            SessionGone, StreamEnded, TypeError, ValueError: See `EventLog.append`.
        """
        is_retry, start = False, self._newest_id

        async def attempt() -> str:
            nonlocal is_retry, start
            if is_retry:
                found = await self._find_appended(message, start)
                if found is not None:
                    return found
            elif self._shared:
                start = await self._read_to_end()
            is_retry = True
            return await self._log.append(self.key, self.stream, message, final=final)

        try:
            event_id = await attempt()
        except SessionError:
            if on_first_failure is not None:
                on_first_failure()
            if retry_seconds == 0:
                raise
            event_id = await retry_while_unavailable(attempt, retry_seconds)
        self._newest_id = event_id
        return event_id

    async def _read_to_end(self) -> str | None:
        """Return the id of the stream's newest event, so that no older event of another process counts as this one."""
        newest_id = self._newest_id
        while events := await self._log.read(self.key, newest_id, stream=self.stream):
            newest_id = events[-1].id
        self._newest_id = newest_id
        return newest_id

    async def _find_appended(self, message: Mapping[str, Any] | None, start: str | None) -> str | None:
        """Return the id of the event if a failed attempt has appended it after `start`, else `None`."""
        # The barrier: after this write, an earlier write of this process can be read, or it never will be.
        await self._log.claim(f"barrier:{self.stream}", self.stream, _BARRIER_SECONDS)
        wanted, after = encode(message), start
        while events := await self._log.read(self.key, after, stream=self.stream):
            for event in events:
                if encode(event.message) == wanted:
                    return event.id
            after = events[-1].id
        return None
