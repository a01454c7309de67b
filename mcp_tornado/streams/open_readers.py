"""The readers of event logs that are in use in this process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mcp_tornado import jsonrpc
from mcp_tornado.jsonrpc import CALL_LOST
from mcp_tornado.sessions import ErrorCode, EventId, EventLog, SessionError
from mcp_tornado.streams.names import (
    STANDALONE,
    first_standalone_id,
    is_client_stream,
    is_received,
    owner_of,
    position_before,
    read_request_ids,
)
from mcp_tornado.streams.orphans import Orphans
from mcp_tornado.streams.reader import IsAlive, StreamReader


@dataclass(frozen=True, slots=True)
class ResumedEvent:
    """The event after which a client resumes a stream."""

    event_id: EventId
    is_final: bool = False
    """Whether the event ended its stream."""


class OpenReaders:
    """Opens readers, and keeps each until it is released.

    Args:
        log: The event log.
        is_alive: Returns whether a session is alive.
        orphans: Ends the streams of processes that have died.
        process: The name of this process.
    """

    def __init__(self, log: EventLog, is_alive: IsAlive, orphans: Orphans, process: str) -> None:
        self._log = log
        self._is_alive = is_alive
        self._orphans = orphans
        self._process = process
        self._readers: dict[str, set[StreamReader]] = {}
        self._standalone: dict[str, StreamReader] = {}

    def keys(self) -> Iterable[str]:
        """Return the keys of the sessions that have a reader."""
        return self._readers.keys()

    async def find_resumed(self, key: str, text: str) -> ResumedEvent | None:
        """Return the event that a `Last-Event-ID` names; `None` if the log of the session never had such an event.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        event_id = EventId.parse(text)
        if event_id is None or not event_id.belongs_to(key):
            return None
        if event_id == first_standalone_id(key):
            return ResumedEvent(event_id)
        if event_id.number < 1 or not is_client_stream(event_id.stream):
            return None
        found = await self._log.read(key, position_before(str(event_id)), limit=1)
        if not found:
            return None
        if _number_of(found[0].id) == event_id.number:
            return ResumedEvent(event_id, is_final=found[0].final) if found[0].id == str(event_id) else None
        return ResumedEvent(event_id)  # it is evicted: the numbers in a log have no gaps

    def open_standalone(self, key: str, after: EventId | None, *, client_reconnects: bool) -> StreamReader:
        """Return a reader of a session's standalone stream; there is one at a time in this process.

        Args:
            key: The session's key.
            after: The event of the stream to start after, or `first_standalone_id`. If there is a reader, the new one
                replaces it. `None` starts at the oldest event that is kept; then there must be no reader.
            client_reconnects: See `StreamReader`.

        Raises:
            SessionError: `SESSION_CONFLICT`: there is a reader, and `after` is `None`.
        """
        present = self._standalone.get(key)
        if present is not None:
            if after is None:
                raise standalone_conflict()
            present.close(discard_pending=True)
        reader = StreamReader(
            self._log,
            key,
            after=str(after) if after is not None else None,
            is_alive=self._is_alive,
            shows=lambda stream: stream == STANDALONE,
            client_reconnects=client_reconnects,
            priming_id=str(first_standalone_id(key)) if after is None and client_reconnects else None,
        )
        self._standalone[key] = reader
        return self._keep(reader)

    def reads_standalone(self, key: str) -> bool:
        """Return whether this process reads a session's standalone stream."""
        return key in self._standalone

    def close_standalone(self, key: str, *, discard_pending: bool = False) -> None:
        """Close the reader of a session's standalone stream, if there is one, for the client to reconnect.

        Args:
            key: The session's key.
            discard_pending: Whether the reader leaves out the events that it has not read yet, because another reader
                has taken its place.
        """
        reader = self._standalone.get(key)
        if reader is not None:
            reader.close(discard_pending=discard_pending, stream_continues=True)

    async def resume(
        self, key: str, resumed: ResumedEvent, *, runs_here: bool, client_reconnects: bool
    ) -> StreamReader:
        """Return a reader that continues the stream of a call (a POST, or a call of `/mcp/send`) after an event.

        Args:
            key: The session's key.
            resumed: The event.
            runs_here: Whether a request that this stream answers still runs in this process.
            client_reconnects: See `StreamReader`.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        event_id, stream = resumed.event_id, resumed.event_id.stream
        is_written_elsewhere = owner_of(stream) != self._process
        is_finished = resumed.is_final if is_written_elsewhere else not runs_here
        requests = await read_request_ids(self._log, key, stream)
        evicted = {"code": CALL_LOST, "message": "Events of this stream are no longer kept: send the request again"}
        reader = StreamReader(
            self._log,
            key,
            after=str(event_id),
            is_alive=self._is_alive,
            shows=lambda shown: shown == stream,
            follows_one=True,
            eviction_messages=[jsonrpc.error(request_id, evicted) for request_id in requests or [None]],
            on_idle=self._orphans.make_stream_check(key, stream) if is_written_elsewhere else None,
            client_reconnects=client_reconnects,
        )
        if is_finished:
            # The stream gets no further events: read what is in the log, then end.
            reader.close()
        return self._keep(reader)

    def open_received(self, key: str, after: str | None) -> StreamReader:
        """Return a reader of every stream that `/mcp/receive` shows, from the event after `after` on."""
        on_idle = self._orphans.make_background_calls_check(key)
        return self._keep(
            StreamReader(self._log, key, after=after, is_alive=self._is_alive, shows=is_received, on_idle=on_idle)
        )

    def release(self, reader: StreamReader) -> bool:
        """Close and forget a reader. Return whether it was the reader of the session's standalone stream."""
        reader.close(discard_pending=True)
        readers = self._readers.get(reader.key, set())
        readers.discard(reader)
        if not readers:
            self._readers.pop(reader.key, None)
        is_standalone = self._standalone.get(reader.key) is reader
        if is_standalone:
            del self._standalone[reader.key]
        return is_standalone

    def close(self, key: str) -> None:
        """Close the readers of a session that has ended; each still reads what is in the log."""
        for reader in list(self._readers.get(key, ())):
            reader.close()

    def close_open_ended(self) -> None:
        """Close the readers that wait for no running call of this process; their clients should reconnect."""
        for reader in self._all():
            if not reader.ends_with_a_call:
                reader.close(stream_continues=True)

    def close_all(self) -> None:
        """Close all readers; they leave out the events that they have not read yet."""
        for reader in self._all():
            reader.close(discard_pending=True)

    def _all(self) -> list[StreamReader]:
        return [reader for readers in self._readers.values() for reader in readers]

    def _keep(self, reader: StreamReader) -> StreamReader:
        self._readers.setdefault(reader.key, set()).add(reader)
        return reader


def standalone_conflict() -> SessionError:
    """Return the error for a second reader of a session's standalone stream."""
    return SessionError(
        ErrorCode.SESSION_CONFLICT,
        "Another GET reads this session's stream: resume the stream with its Last-Event-ID, or close the other GET",
    )


def _number_of(event_id: str) -> int:
    parsed = EventId.parse(event_id)
    return parsed.number if parsed is not None else 0
