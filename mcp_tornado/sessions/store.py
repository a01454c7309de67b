"""The contract of stores, which every store fulfils, whether it is part of mcp-tornado or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, ClassVar, Self

from mcp_tornado.sessions.ids import short_key
from mcp_tornado.sessions.model import Session

Clock = Callable[[], datetime]
"""Returns the current time as an aware UTC datetime."""


def system_clock() -> datetime:
    """Return the current time of the operating system's clock."""
    return datetime.now(UTC)


class SessionStore(ABC):
    """Storage of sessions.

    A store is an asynchronous context manager: entering connects it, leaving closes it. While it is not entered, every
    operation raises `StoreUnavailable`. Every operation may raise `StoreUnavailable`, in bounded time. A session is
    *live* while it is stored and its `expires_at` is later than the store's clock.
    """

    shared: ClassVar[bool]
    """Whether stores with the same URL in other processes see the same sessions."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect to the database, and return the store."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the store."""

    @abstractmethod
    async def create(self, session: Session) -> None:
        """Insert a session, and never overwrite one.

        Raises:
            DuplicateSession: The key is taken.
        """

    @abstractmethod
    async def get(self, key: str) -> Session | None:
        """Return the stored session, or `None`. An expired session may still be stored."""

    @abstractmethod
    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """Move both times of a live session forward, and return whether that was done.

        If the session is not live, or if either time would go backwards, nothing changes and the result is `False`.
        """

    @abstractmethod
    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """Change fields of a live session, and add 1 to its record revision, if that is the expected one.

        The comparison and the change are one atomic step.

        Args:
            key: The key of the session.
            changes: New values for some fields, in the form of `Session.to_dict`.
            expected_revision: The record revision (`Session.revision`) from which the changes were made.

        Returns:
            The changed session, or `None` if no live session has the key.

        Raises:
            RevisionConflict: The session has another record revision.
        """

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Remove a session and its events, and return whether the session existed.

        A log of the processes (see `EventLog`) has no session: its events are removed, and the result is `False`.
        """

    @abstractmethod
    async def sweep(self, now: datetime, limit: int) -> int:
        """Remove at most `limit` sessions that had expired at `now`, with their events; return how many were removed.

        The removal of each session checks its expiry again.
        """

    @abstractmethod
    async def count(self, principal: str | None = None) -> int:
        """Return the number of live sessions: of all principals, or of the given one."""

    @abstractmethod
    async def page(self, after: str | None, limit: int) -> list[Session]:
        """Return at most `limit` live sessions in key order, starting after the key `after` (`None`: at the first)."""

    @abstractmethod
    async def ping(self) -> None:
        """Check that the store answers.

        Raises:
            StoreUnavailable: The store does not answer.
        """


@dataclass(frozen=True, slots=True)
class EventBounds:
    """The bounds within which the events of a session are kept; the newest event is always kept."""

    max_per_session: int = 1000
    max_bytes: int = 1_048_576
    ttl_seconds: float = 3600.0


def _session_tag(key: str) -> str:
    return short_key(key).replace(".", "_")


@dataclass(frozen=True, slots=True)
class EventId:
    """The parts of an event id: the number within the session, the session, and the stream.

    Ids as text sort like their numbers. The id contains the session's short key, so that an id of another session can
    be told from an evicted one.
    """

    number: int
    session: str
    stream: str

    @classmethod
    def of(cls, number: int, key: str, stream: str) -> EventId:
        """Return the id of the event with this number, in the session with this (whole) key."""
        return cls(number, _session_tag(key), stream)

    def belongs_to(self, key: str) -> bool:
        """Return whether the id belongs to the session with this (whole) key."""
        return self.session == _session_tag(key)

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """Return the parts of an id, or `None` if the text is no event id."""
        number, _, rest = text.partition(".")
        session, _, stream = rest.partition(".")
        if not (number.isascii() and number.isdigit() and len(number) <= 18 and session and stream):
            return None
        return cls(int(number), session, stream)

    @classmethod
    def number_after(cls, key: str, after: str | None) -> int | None:
        """Return the number after which `EventLog.read` starts; 0 means the beginning.

        The result is `None` if `after` is no id of the session with this (whole) key. Then there is nothing to read.
        """
        if after is None:
            return 0
        event_id = cls.parse(after)
        return event_id.number if event_id is not None and event_id.belongs_to(key) else None

    def __str__(self) -> str:
        return f"{self.number:012d}.{self.session}.{self.stream}"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a session: a JSON-RPC message on a stream."""

    id: str
    stream: str
    message: Mapping[str, Any] | None
    """The message; `None` for a priming event, from whose id a client can resume a stream that has no message yet."""
    final: bool = False
    """Whether this event ends the stream."""


class EventLog(ABC):
    """The events of each session, in order and within bounds; a store may implement it besides `SessionStore`.

    A key that begins with `@` is that of a log of the processes, which needs no session: the mailbox of a process, the
    broadcast log, the register of processes, or the log that holds the generated key for `requestState`.

    To follow a log, read it, wait, and read it again. If a wake-up is lost, the reader finds the event later.
    """

    @abstractmethod
    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False) -> str:
        """Append an event to a stream and return its id. Ids are unique, and increase within the session.

        Args:
            key: The key of the session, or of a log of the processes.
            stream: The stream to append to.
            message: The message, or `None` for a priming event.
            final: Whether the event ends the stream.

        Raises:
            SessionGone: The session has ended or expired.
            StreamEnded: The stream already has its final event.
            TypeError, ValueError: The message is not JSON, or too large for the store; nothing has changed.
        """

    @abstractmethod
    async def read(self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100) -> list[Event]:
        """Return at most `limit` events after an event id, oldest first.

        Args:
            key: The key of the session, or of a log of the processes.
            after: The id of the event to start after. With `None`, or with the id of an evicted event, the result
                starts at the oldest event that is kept. For a text that is no event id of this session, it is empty.
            stream: Return only events of this stream; `None` means all streams.
            limit: The maximum number of events.
        """

    @abstractmethod
    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """Wait at most `timeout` seconds for an event after `after`, appended by any process.

        The wait ends at once if there is such an event already, or if the session has ended; it ends early when an
        event is appended or the session ends.

        Returns:
            `True` if there may be a new event, or if the session may have ended: the caller must check. `False` after
            the timeout.
        """

    @abstractmethod
    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """Take or renew a lease atomically, for `ttl_seconds`, and return whether `owner` holds it now."""

    @abstractmethod
    async def release(self, name: str, owner: str) -> None:
        """Release a lease. If `owner` does not hold it, nothing happens."""
