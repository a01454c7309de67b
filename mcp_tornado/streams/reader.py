"""Read streams of a session from its event log, and follow them as new events are appended.

The reader reads the log to its end, waits, and reads again. A wake-up only says that the log may have changed, and it
can be lost, so the reader reads after every wait. A wake-up without an event may mean that the session has ended; only
the session manager knows that, so the reader asks it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from mcp_tornado.sessions import EventId, EventLog
from mcp_tornado.streams.frames import Frame

IsAlive = Callable[[str], Awaitable[bool]]
"""Returns whether the session with this key is alive. If it is not, its readers are closed soon after."""

OnIdle = Callable[[str | None], Awaitable[bool]]
"""Called while a reader has nothing to read, with the id of the last event that it has read. Returns whether there may
be a new event, because this call has written one."""

_ON_IDLE_SECONDS: Final = 1.0
"""Shortest interval between two calls of `on_idle`."""


class StreamReader:
    """Reads streams of a session, and follows them until a final event, the end of the session, or `close`.

    Args:
        log: The event log.
        key: The session's key.
        after: The event to start after; `None` for the oldest event that is kept.
        is_alive: Returns whether the session is alive.
        shows: Returns whether the stream with this name is read.
        follows_one: Whether one stream is read, so that its final event ends the reader.
        eviction_messages: For a reader of one stream. If the log may have evicted events that the reader has not read,
            the reader yields these messages and ends. Without such messages, it continues at the oldest event kept.
        on_idle: Called from time to time while there is nothing to read.
        client_reconnects: Whether the client knows that it must reconnect when the server closes the connection before
            the end of the stream (MCP 2025-11-25, basic/transports).
        priming_id: The id of the priming event with which the connection begins; `None` if it has none.
    """

    def __init__(
        self,
        log: EventLog,
        key: str,
        *,
        after: str | None,
        is_alive: IsAlive,
        shows: Callable[[str], bool],
        follows_one: bool = False,
        eviction_messages: Sequence[Mapping[str, Any]] = (),
        on_idle: OnIdle | None = None,
        client_reconnects: bool = False,
        priming_id: str | None = None,
    ) -> None:
        self.key = key
        self.priming_id = priming_id
        self._follows_one = follows_one
        self._log = log
        self._last_read_id = after
        self._is_alive = is_alive
        self._shows = shows
        self._eviction_messages = eviction_messages
        self._on_idle = on_idle
        self._client_reconnects = client_reconnects
        self._closed = False
        self._discards_pending = False
        self._stream_continues = False
        self._waiting: asyncio.Future[bool] | None = None

    @property
    def ends_with_a_call(self) -> bool:
        """Whether the reader ends when a call that runs in this process is answered."""
        return self._follows_one and self._on_idle is None

    def close(self, *, discard_pending: bool = False, stream_continues: bool = False) -> None:
        """See `FrameReader.close`; `stream_continues`: only the connection ends, and the client should reconnect."""
        self._closed = True
        self._discards_pending = self._discards_pending or discard_pending
        self._stream_continues = self._stream_continues or stream_continues
        if self._waiting is not None:
            self._waiting.cancel()

    async def frames(self, keepalive: float) -> AsyncGenerator[Frame | None]:
        """See `FrameReader.frames`.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        now = asyncio.get_running_loop().time
        keepalive_at = now() + keepalive
        on_idle_at = now()
        was_woken = False
        while not self._discards_pending:
            if self._eviction_messages and await self._has_lost_events():
                for message in self._eviction_messages:
                    yield Frame(None, message)
                return
            events = await self._log.read(self.key, self._last_read_id)
            for event in events:
                self._last_read_id = event.id
                if self._shows(event.stream):
                    yield Frame(event.id, event.message)
                    keepalive_at = now() + keepalive
                    if self._discards_pending:
                        break
                    if event.final and self._follows_one:
                        return
            if events:
                was_woken = False
                continue
            if self._closed:
                if self._stream_continues and self._client_reconnects:
                    yield Frame(None, None)
                break
            if self._on_idle is not None and now() >= on_idle_at:
                on_idle_at = now() + _ON_IDLE_SECONDS
                if await self._on_idle(self._last_read_id):
                    continue
            # A wake-up without an event may mean that the session has ended. If it has, `is_alive` causes this process
            # to close its readers: then this reader waits only for `close`.
            has_ended = was_woken and not await self._is_alive(self.key)
            wait_until = keepalive_at if self._on_idle is None else min(keepalive_at, on_idle_at)
            was_woken = await self._wait(None if has_ended else max(0.0, wait_until - now()))
            if not was_woken and now() >= keepalive_at:
                yield None
                keepalive_at = now() + keepalive

    async def _has_lost_events(self) -> bool:
        """Return whether the last event that was read is evicted: then events that followed it may be evicted too."""
        oldest = await self._log.read(self.key, None, limit=1)
        last_read = EventId.parse(self._last_read_id) if self._last_read_id is not None else None
        oldest_id = EventId.parse(oldest[0].id) if oldest else None
        return last_read is not None and oldest_id is not None and oldest_id.number > last_read.number

    async def _wait(self, timeout: float | None) -> bool:
        """Wait for an event or for `close`, at most `timeout` seconds; `None` waits only for `close`, without a limit.

        Returns:
            Whether there may be a new event or `close` was called; `False` after the timeout.
        """
        if self._closed:
            return True
        if timeout is None:
            self._waiting = asyncio.get_running_loop().create_future()
        else:
            self._waiting = asyncio.ensure_future(self._log.wait(self.key, self._last_read_id, timeout))
        try:
            return await self._waiting
        except asyncio.CancelledError:
            if self._closed and self._waiting.cancelled():
                return True
            self._waiting.cancel()
            raise
        finally:
            self._waiting = None
