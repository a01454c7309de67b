"""The streams of a session that a client reads: the standalone stream, a resumed stream, and `/mcp/receive`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from mcp_tornado.kernel.admission import Admission
from mcp_tornado.kernel.running_calls import RunningCalls
from mcp_tornado.kernel.session_messages import PRIMED_VERSIONS
from mcp_tornado.sessions import ErrorCode, Event, EventLog, Session, SessionError
from mcp_tornado.streams.names import STANDALONE, is_received, position_before
from mcp_tornado.streams.open_readers import OpenReaders
from mcp_tornado.streams.reader import StreamReader
from mcp_tornado.streams.standalone import StandaloneStreams
from mcp_tornado.streams.tasks import BackgroundTasks

_RECEIVE_LIMIT: Final = 100
"""The most events that one poll of `/mcp/receive` returns."""


class SessionStreams:
    """Opens the readers of a session's streams for the web layer.

    Args:
        log: The event log of the sessions.
        readers: The readers in use in this process.
        standalone: Ensures that one GET at a time reads a session's standalone stream.
        calls: The calls that run in this process.
        admission: Refuses new streams during a drain.
        tasks: Keeps the tasks that run after a reader is released.
        is_alive: Returns whether the session with this key is still alive.
    """

    def __init__(
        self,
        *,
        log: EventLog,
        readers: OpenReaders,
        standalone: StandaloneStreams,
        calls: RunningCalls,
        admission: Admission,
        tasks: BackgroundTasks,
        is_alive: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._log = log
        self._readers = readers
        self._standalone = standalone
        self._calls = calls
        self._admission = admission
        self._tasks = tasks
        self._is_alive = is_alive

    async def open(self, session: Session, last_event_id: str | None) -> StreamReader:
        """Return the reader that a GET asks for: of the standalone stream, or of the stream of `last_event_id`.

        An id counts as none if it is no event id, belongs to another session, or was never given out.

        Raises:
            SessionError: `SESSION_CONFLICT`: another GET reads the standalone stream, and this GET does not resume it.
                `SERVER_DRAINING`: the process drains, and the stream is not the answer to a call.
                `STORE_UNAVAILABLE`.
        """
        key = session.key
        reconnects = session.protocol_version in PRIMED_VERSIONS
        resumed = await self._readers.find_resumed(key, last_event_id) if last_event_id is not None else None
        if resumed is not None and resumed.event_id.stream != STANDALONE:
            runs_here = any(call.stream.name == resumed.event_id.stream for call in self._calls.of(key))
            return await self._readers.resume(key, resumed, runs_here=runs_here, client_reconnects=reconnects)
        self._admission.check()
        event_id = resumed.event_id if resumed is not None else None
        reader = self._readers.open_standalone(key, event_id, client_reconnects=reconnects)
        try:
            await self._standalone.acquire(key, take_over=event_id is not None)
        except BaseException:
            self.release(reader)
            raise
        return reader

    def open_receiver(self, session: Session, after: str | None) -> StreamReader:
        """Return a reader of every stream that `/mcp/receive` shows.

        Raises:
            SessionError: `SERVER_DRAINING`.
        """
        self._admission.check()
        return self._readers.open_received(session.key, after)

    async def poll(self, session: Session, after: str | None, wait: float) -> tuple[list[Event], str | None]:
        """Return the events of a session after an event id; wait at most `wait` seconds for the first one.

        Returns:
            The events, at most 100 and without priming events, and the `after` of the next poll: the id of the last
            event, or the given `after` if there is no event.

        Raises:
            SessionError: `SESSION_NOT_FOUND`: the session ended during the wait. `SERVER_DRAINING`: the process drains
                and there is no event now. `STORE_UNAVAILABLE`.
        """
        was_draining = self._admission.draining
        reader = self._readers.open_received(session.key, after)
        try:
            first = await _first_message_id(reader, 0 if was_draining else wait)
        finally:
            self._readers.release(reader)
        if first is None:
            if was_draining:
                raise SessionError(ErrorCode.SERVER_DRAINING)
            if not self._admission.draining and not await self._is_alive(session.key):
                raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended")
            return [], after
        events = await self._log.read(session.key, position_before(first), limit=_RECEIVE_LIMIT)
        visible = [event for event in events if is_received(event.stream) and event.message is not None]
        return visible, visible[-1].id if visible else after

    def release(self, reader: StreamReader) -> None:
        """Release a reader that is no longer used."""
        if self._readers.release(reader):
            self._tasks.spawn_detached(self._standalone.release(reader.key))


async def _first_message_id(reader: StreamReader, wait: float) -> str | None:
    """Return the event id of the first message that arrives within `wait` seconds; `None` if none arrives."""
    async with aclosing(reader.frames(wait)) as frames:
        async for frame in frames:
            if frame is None or frame.message is not None:
                return frame.id if frame is not None else None
    return None
