"""Who reads which stream of which session in this process."""

from __future__ import annotations

from collections.abc import Iterable

from mcp_tornado import jsonrpc
from mcp_tornado.jsonrpc import CALL_LOST
from mcp_tornado.sessions import ErrorCode, EventId, EventLog, SessionError
from mcp_tornado.streams.names import STANDALONE, is_received, just_before, owner_of, requests_of
from mcp_tornado.streams.orphans import Orphans
from mcp_tornado.streams.reader import IsAlive, StreamReader


class StreamReaders:
    """Makes the readers of event logs, and remembers those in use until they are released.

    Args:
        log: The log.
        alive: Says whether a session lives.
        orphans: Ends streams whose process has died.
        process: The name of this process.
    """

    def __init__(self, log: EventLog, alive: IsAlive, orphans: Orphans, process: str) -> None:
        self._log = log
        self._alive = alive
        self._orphans = orphans
        self._process = process
        self._readers: dict[str, set[StreamReader]] = {}
        self._standalone: dict[str, StreamReader] = {}

    def keys(self) -> Iterable[str]:
        """Return the keys of the sessions that are read."""
        return self._readers.keys()

    def standalone(self, key: str, after: str | None, *, polled: bool) -> StreamReader:
        """Return who reads a session's standalone stream; there is one at a time in this process.

        Args:
            key: The session's key.
            after: An event id of the stream takes it over from who holds it; `None` does not.
            polled: See `StreamReader`.

        Raises:
            SessionError: `SESSION_CONFLICT`: somebody holds it.
        """
        holder = self._standalone.get(key)
        if holder is not None:
            if after is None:
                raise standalone_conflict()
            holder.close(at_once=True)
        reader = StreamReader(
            self._log, key, after=after, alive=self._alive, shows=lambda stream: stream == STANDALONE, polled=polled
        )
        self._standalone[key] = reader
        return self._register(reader)

    def holds_standalone(self, key: str) -> bool:
        """Say whether a session's standalone stream is read in this process."""
        return key in self._standalone

    def close_standalone(self, key: str, *, at_once: bool = False) -> None:
        """Close the connection that reads a session's standalone stream; `at_once`: another one reads on already."""
        holder = self._standalone.get(key)
        if holder is not None:
            holder.close(at_once=at_once, goes_on=True)

    async def resume(self, key: str, event_id: EventId, *, runs_here: bool, polled: bool) -> StreamReader:
        """Return who goes on reading the answers to a POST after an event.

        Args:
            key: The session's key.
            event_id: The event; one that never was reads nothing.
            runs_here: Whether a request still runs for this stream in this process.
            polled: See `StreamReader`.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        stream, owner = event_id.stream, owner_of(event_id.stream)
        elsewhere = owner is not None and owner != self._process
        finished = not runs_here
        if event_id.number < 1:
            return self.nothing(key)
        if elsewhere:
            found = await self._log.read(key, just_before(str(event_id)), limit=1)
            is_kept = bool(found) and found[0].id == str(event_id)
            if not is_kept and (not found or _number(found[0].id) == event_id.number):
                return self.nothing(key)
            finished = is_kept and found[0].final
        requests = await requests_of(self._log, key, stream)
        lost = {"code": CALL_LOST, "message": "Events of this stream are no longer kept: ask again"}
        reader = StreamReader(
            self._log,
            key,
            after=str(event_id),
            alive=self._alive,
            shows=lambda shown: shown == stream,
            follows_one=True,
            lost=[jsonrpc.error(request_id, lost) for request_id in requests or [None]],
            tend=self._orphans.of_stream(key, stream) if elsewhere else None,
            polled=polled,
        )
        if finished:
            # All that will ever come is in the log.
            reader.close()
        return self._register(reader)

    def nothing(self, key: str) -> StreamReader:
        """Return a reader that ends at once."""
        reader = StreamReader(self._log, key, after=None, alive=self._alive, shows=lambda _: False)
        reader.close(at_once=True)
        return self._register(reader)

    def receiver(self, key: str, after: str | None) -> StreamReader:
        """Return who reads all that `/mcp/receive` shows."""
        tend = self._orphans.of_background(key)
        return self._register(
            StreamReader(self._log, key, after=after, alive=self._alive, shows=is_received, tend=tend)
        )

    def release(self, reader: StreamReader) -> bool:
        """Forget a reader that is no longer read; say whether it held the session's standalone stream."""
        reader.close(at_once=True)
        readers = self._readers.get(reader.key, set())
        readers.discard(reader)
        if not readers:
            self._readers.pop(reader.key, None)
        held = self._standalone.get(reader.key) is reader
        if held:
            del self._standalone[reader.key]
        return held

    def close(self, key: str) -> None:
        """End what reads a session that is gone, after what is still in the log."""
        for reader in list(self._readers.get(key, ())):
            reader.close()

    def close_open_ended(self) -> None:
        """End the readers that no answer of this process would end."""
        for reader in self._all():
            if not reader.ends_with_a_call:
                reader.close(goes_on=True)

    def close_all(self) -> None:
        """End all readers, at once."""
        for reader in self._all():
            reader.close(at_once=True)

    def _all(self) -> list[StreamReader]:
        return [reader for readers in self._readers.values() for reader in readers]

    def _register(self, reader: StreamReader) -> StreamReader:
        self._readers.setdefault(reader.key, set()).add(reader)
        return reader


def standalone_conflict() -> SessionError:
    """Return the error for a second reader of a session's standalone stream."""
    return SessionError(
        ErrorCode.SESSION_CONFLICT,
        "Another GET holds this session's stream: resume it with its Last-Event-ID, or close it first",
    )


def _number(event_id: str) -> int:
    parsed = EventId.parse(event_id)
    return parsed.number if parsed is not None else 0
