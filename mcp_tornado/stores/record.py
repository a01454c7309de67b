"""Sessions and events in the form in which databases store them: searchable fields, and a JSON payload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from mcp_tornado.sessions.encoding import decode_stored, encode_stored
from mcp_tornado.sessions.model import Session
from mcp_tornado.sessions.store import Event, EventId


@dataclass(slots=True)
class Record:
    """A session as a database stores it.

    The fields that stores compare or search are stored beside the payload. A touch need not write the payload: for
    `last_seen_at` and `expires_at` the fields are valid, and the values in the payload are ignored. Times are integers,
    in microseconds since the epoch.
    """

    last_seen_at: int
    expires_at: int
    revision: int
    principal: str | None
    payload: bytes
    """The whole session, written by `encode_stored`."""

    @classmethod
    def of(cls, session: Session) -> Self:
        """Return the record of a session.

        Raises:
            TypeError, ValueError: The session holds something that JSON cannot represent.
        """
        return cls._of_values(session.to_dict())

    def to_session(self) -> Session:
        """Return the session of this record."""
        return Session.from_dict(self._values())

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Return the record after `SessionStore.update` with these changes; the record revision is higher by 1.

        Raises:
            TypeError, ValueError: The changes hold something that JSON cannot represent.
        """
        return self._of_values({**self._values(), **changes, "revision": self.revision + 1})

    def _values(self) -> dict[str, Any]:
        values = decode_stored(self.payload)
        values["last_seen_at"] = self.last_seen_at
        values["expires_at"] = self.expires_at
        return values

    @classmethod
    def _of_values(cls, values: Mapping[str, Any]) -> Self:
        return cls(
            last_seen_at=values["last_seen_at"],
            expires_at=values["expires_at"],
            revision=values["revision"],
            principal=values["principal"],
            payload=encode_stored(values),
        )


def stored_event(key: str, number: int, stream: str, data: bytes, final: bool) -> Event:
    """Return the event with this number in the session with this key.

    Args:
        key: The session's whole key.
        number: The number of the event within the session.
        stream: The stream of the event.
        data: The message, written by `encode_stored`.
        final: Whether the event ends the stream.
    """
    return Event(str(EventId.of(number, key, stream)), stream, decode_stored(data), final)
