"""What is asked of a store: the contract that every store, shipped or third-party, fulfils."""

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
"""Returns the present moment as an aware UTC datetime."""


def system_clock() -> datetime:
    """Return the present moment of the operating system's clock."""
    return datetime.now(UTC)


class SessionStore(ABC):
    """Where sessions live.

    A store is an asynchronous context manager: it connects on entering and is closed on leaving. Outside of it,
    every operation raises `StoreUnavailable`. Every operation may raise `StoreUnavailable`, in bounded time.
    A session is *live* while it is stored and its `expires_at` is later than the store's clock.
    """

    shared: ClassVar[bool]
    """Whether stores on the same URL in other processes see the same sessions."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""

    @abstractmethod
    async def create(self, session: Session) -> None:
        """Insert a session; never overwrites.

        Raises:
            DuplicateSession: The key is taken.
        """

    @abstractmethod
    async def get(self, key: str) -> Session | None:
        """Return the session as stored, or `None`; one that has expired may still be there or may be gone."""

    @abstractmethod
    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """Move both times of a live session forward; say whether that was done.

        `False`, and nothing changes, where the session is not live or either time would go backwards.
        """

    @abstractmethod
    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """Change fields of a live session, atomically, if its revision is the expected one; add 1 to `revision`.

        Args:
            key: Which session.
            changes: New values of some fields, in the form of `Session.to_dict`.
            expected_revision: The revision the changes were made from.

        Returns:
            The session as it is now, or `None` where there is no live one.

        Raises:
            RevisionConflict: Somebody else changed it meanwhile.
        """

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Remove a session with its events; say whether there was one. Deleting again is no error.

        The key of a process (see `EventLog`) has no session: its events are removed, and the answer is `False`.
        """

    @abstractmethod
    async def sweep(self, now: datetime, limit: int) -> int:
        """Remove at most `limit` sessions that expired by `now`, rechecking each; say how many were removed."""

    @abstractmethod
    async def count(self, principal: str | None = None) -> int:
        """Count the live sessions: all of them, or one principal's."""

    @abstractmethod
    async def page(self, after: str | None, limit: int) -> list[Session]:
        """Return at most `limit` live sessions in key order, from the key after `after` on (`None`: the first)."""

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store answers.

        Raises:
            StoreUnavailable: It does not.
        """


@dataclass(frozen=True, slots=True)
class EventBounds:
    """How much of a session's events is kept; the newest event is always kept."""

    max_per_session: int = 1000
    max_bytes: int = 1_048_576
    ttl_seconds: float = 3600.0


def _tag(key: str) -> str:
    return short_key(key).replace(".", "_")


@dataclass(frozen=True, slots=True)
class EventId:
    """The parts of an event id: its number within the session, whose session, which stream.

    The text sorts as the numbers do. It names the session by its short key, so that an id of another session
    is told from one that the bounds have evicted.
    """

    number: int
    session: str
    stream: str

    @classmethod
    def of(cls, number: int, key: str, stream: str) -> EventId:
        """Return the id of the event with this number, in the session with this (whole) key."""
        return cls(number, _tag(key), stream)

    def belongs_to(self, key: str) -> bool:
        """Say whether this is an id of the session with this (whole) key."""
        return self.session == _tag(key)

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """Return the parts of an id, or `None` where the text is no event id."""
        number, _, rest = text.partition(".")
        session, _, stream = rest.partition(".")
        if not (number.isascii() and number.isdigit() and len(number) <= 18 and session and stream):
            return None
        return cls(int(number), session, stream)

    @classmethod
    def number_after(cls, key: str, after: str | None) -> int | None:
        """Return the number after which `EventLog.read` starts: 0 for the beginning.

        `None` where `after` is no id of the session with this (whole) key: there is nothing to read then.
        """
        if after is None:
            return 0
        event_id = cls.parse(after)
        return event_id.number if event_id is not None and event_id.belongs_to(key) else None

    def __str__(self) -> str:
        return f"{self.number:012d}.{self.session}.{self.stream}"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a session: a JSON-RPC message on one stream."""

    id: str
    stream: str
    message: Mapping[str, Any] | None
    """The message, or `None` for a priming event."""
    final: bool = False
    """Whether the stream ends with it."""


class EventLog(ABC):
    """The events of each session, in order, bounded; a store may implement it beside `SessionStore`.

    A key that begins with `@` belongs to a process (mailboxes, heartbeats) and needs no session.
    To follow a log: read, then wait, then read again. A lost wake-up costs time, never an event.
    """

    @abstractmethod
    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False) -> str:
        """Add an event to a stream and return its id: unique, and increasing within the session.

        Raises:
            SessionGone: The session has ended or expired.
            StreamEnded: The stream has had its final event.
            TypeError, ValueError: The message is no JSON, or more than the store can keep; nothing has changed.
        """

    @abstractmethod
    async def read(self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100) -> list[Event]:
        """Return at most `limit` events after an event id, oldest first.

        Args:
            key: Whose events.
            after: Start after this event; `None` starts at the oldest kept. Where the bounds have evicted it,
                reading goes on at the oldest kept. One that is no id of this session reads nothing.
            stream: Only this stream's events; `None` for all of them.
            limit: How many at the most.
        """

    @abstractmethod
    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """Wait for an event after `after`, from any process, at most `timeout` seconds.

        Returns early, also when there is one already and when the session ends. Says whether there may be
        something new to read; `False` after the whole time.
        """

    @abstractmethod
    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """Take or renew a lease, atomically; say whether `owner` has it now."""

    @abstractmethod
    async def release(self, name: str, owner: str) -> None:
        """Give a lease back; no error where `owner` does not have it."""
