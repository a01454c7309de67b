"""Who reads which stream of which session in this process."""

from __future__ import annotations

from collections.abc import Iterable

from mcp_tornado.kernel import messages
from mcp_tornado.kernel.messages import CALL_LOST, RequestId
from mcp_tornado.kernel.streams import STANDALONE, Alive, StreamReader, is_received
from mcp_tornado.sessions import ErrorCode, EventId, EventLog, SessionError


class Readers:
    """Makes the readers of event logs, and remembers those in use until they are released."""

    def __init__(self, log: EventLog, alive: Alive) -> None:
        self._log = log
        self._alive = alive
        self._readers: dict[str, set[StreamReader]] = {}
        self._standalone: dict[str, StreamReader] = {}

    def keys(self) -> Iterable[str]:
        """Return the keys of the sessions that are read."""
        return self._readers.keys()

    def standalone(self, key: str, after: str | None) -> StreamReader:
        """Return who reads a session's standalone stream; there is one at a time.

        Args:
            key: The session's key.
            after: An event id of the stream takes it over from who holds it; `None` does not.

        Raises:
            SessionError: `SESSION_CONFLICT`: somebody holds it.
        """
        holder = self._standalone.get(key)
        if holder is not None:
            if after is None:
                raise SessionError(
                    ErrorCode.SESSION_CONFLICT,
                    "Another GET holds this session's stream: resume it with its Last-Event-ID, or close it first",
                )
            holder.close(at_once=True)
        reader = StreamReader(self._log, key, after=after, alive=self._alive, shows=lambda stream: stream == STANDALONE)
        self._standalone[key] = reader
        return self._register(reader)

    def close_standalone(self, key: str) -> None:
        """Close the connection that reads a session's standalone stream, for the client to come back."""
        holder = self._standalone.get(key)
        if holder is not None:
            holder.close()

    def resume(self, key: str, event_id: EventId, running: RequestId | None) -> StreamReader:
        """Return who goes on reading the answers to a POST after an event.

        Args:
            key: The session's key.
            event_id: The event.
            running: The id of the request that still runs for this stream, `None` where none does.
        """
        name = event_id.stream
        lost = {"code": CALL_LOST, "message": "Events of this stream are no longer kept: ask again"}
        reader = StreamReader(
            self._log,
            key,
            after=str(event_id),
            alive=self._alive,
            shows=lambda stream: stream == name,
            follows_one=True,
            lost=messages.error(running, lost),
        )
        if running is None:
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
        return self._register(StreamReader(self._log, key, after=after, alive=self._alive, shows=is_received))

    def release(self, reader: StreamReader) -> None:
        """Forget a reader that is no longer read."""
        reader.close(at_once=True)
        readers = self._readers.get(reader.key, set())
        readers.discard(reader)
        if not readers:
            self._readers.pop(reader.key, None)
        if self._standalone.get(reader.key) is reader:
            del self._standalone[reader.key]

    def close(self, key: str) -> None:
        """End what reads a session that is gone, after what is still in the log."""
        for reader in list(self._readers.get(key, ())):
            reader.close()

    def close_open_ended(self) -> None:
        """End the readers that no answer would end."""
        for reader in self._all():
            if not reader.follows_one:
                reader.close()

    def close_all(self) -> None:
        """End all readers, at once."""
        for reader in self._all():
            reader.close(at_once=True)

    def _all(self) -> list[StreamReader]:
        return [reader for readers in self._readers.values() for reader in readers]

    def _register(self, reader: StreamReader) -> StreamReader:
        self._readers.setdefault(reader.key, set()).add(reader)
        return reader
