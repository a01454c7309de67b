"""Appending to the event log across outages of the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, stop_never, wait_exponential_jitter

from mcp_tornado.sessions import EventLog, SessionError
from mcp_tornado.sessions.encoding import encode

_BARRIER_SECONDS: Final = 1.0

_REPEATABLE: Final = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)
"""Notifications that say nothing new when they come twice, and much when they come at all."""


class PatientLog:
    """Appends events once each, trying again while the store is away.

    Where an attempt failed it is not known whether the store took the event: before the next one the log is searched
    for it, after the newest event that is known.

    Args:
        log: The log.
        key: Whose events.
        stream: The stream.
        shared: Whether others write to the stream too. An equal event may be another one then: where nothing tells
            them apart, the event is rather written twice than not at all.
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
        try:
            self._newest = await self._log.append(self.key, self.stream, message, final=final)
        except SessionError:
            if on_trouble is not None:
                on_trouble()
            if seconds == 0:
                raise
            self._newest = await self._again(message, final, seconds)
        return self._newest

    async def _again(self, message: Mapping[str, Any] | None, final: bool, seconds: float | None) -> str:
        async def attempt() -> str:
            return await self._find(message) or await self._log.append(self.key, self.stream, message, final=final)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(SessionError),
            stop=stop_never if seconds is None else stop_after_delay(seconds),
            wait=wait_exponential_jitter(initial=0.1, max=2.0, jitter=0.1),
            reraise=True,
        )
        return await retrying(attempt)

    async def _find(self, message: Mapping[str, Any] | None) -> str | None:
        """Return the id of an event that is in the log although nobody was told so."""
        if self._shared and not self._is_recognizable(message or {}):
            return None
        # A write of ours: once it has come through, what we wrote before it is there to be read, or never will be.
        await self._log.claim(f"barrier:{self.stream}", self.stream, _BARRIER_SECONDS)
        wanted, after = encode(message), self._newest
        while events := await self._log.read(self.key, after, stream=self.stream):
            for event in events:
                if encode(event.message) == wanted:
                    return event.id
            after = events[-1].id
        return None

    def _is_recognizable(self, message: Mapping[str, Any]) -> bool:
        return "id" in message or (self._newest is not None and message.get("method") not in _REPEATABLE)
