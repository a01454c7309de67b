"""The documents in MongoDB.

A session is one document of the collection `sessions`:

    _id        the key
    times      {last_seen_at, expires_at}: microseconds, used in comparisons; {expires}: a date, for the TTL index
    revision   see `Session.revision`
    principal  see `Session.principal`
    payload    the whole session as JSON
    log        {id, number}: the id of its log of events, and the number of the newest event (0: none)
    newest     the newest event, see `make_event`; missing if there was none
    ended      the streams that have ended, oldest first

A process (a key that begins with `@`) has a document in this collection too, without the fields of a session: `times`
has only the date, so a query for sessions does not find it. All events but the newest are in the collection `events`.

A write that changes `times`, `log` or `newest` sets the whole field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bson import ObjectId

from mcp_tornado.stores import Event, Record, Session, from_microseconds, stored_event
from mcp_tornado_mongodb.deployment import Document

MICROSECONDS_PER_SECOND: Final = 1_000_000

SESSION_FIELDS: Final = {"times": 1, "revision": 1, "principal": 1, "payload": 1}
"""The projection without the events."""


def make_session(session: Session) -> Document:
    """Return the document of a new session.

    Raises:
        TypeError, ValueError: The session contains a value that JSON cannot represent.
    """
    record = Record.of(session)
    return {
        "_id": session.key,
        "times": make_times(record.last_seen_at, record.expires_at),
        **make_changed_fields(record),
        **_make_empty_log(),
    }


def make_process(key: str, expires: int) -> Document:
    """Return the document of a process without events that is kept until `expires` (microseconds)."""
    return {"_id": key, "times": make_process_times(expires), **_make_empty_log()}


def make_times(last_seen_at: int, expires_at: int) -> Document:
    """Return the times of a session, given in microseconds."""
    return {"last_seen_at": last_seen_at, "expires_at": expires_at, "expires": from_microseconds(expires_at)}


def make_process_times(expires: int) -> Document:
    """Return the times of a process, given in microseconds."""
    return {"expires": from_microseconds(expires)}


def make_changed_fields(record: Record) -> Document:
    """Return the fields of a session that an update sets, without the times."""
    return {"revision": record.revision, "principal": record.principal, "payload": record.payload.decode()}


def to_record(document: Mapping[str, Any]) -> Record:
    """Return the record of a session from the fields in `SESSION_FIELDS`."""
    return Record(
        last_seen_at=document["times"]["last_seen_at"],
        expires_at=document["times"]["expires_at"],
        revision=document["revision"],
        principal=document["principal"],
        payload=document["payload"].encode(),
    )


def make_event(number: int, stream: str, data: bytes, final: bool, at: int, before: int) -> Document:
    """Return the document of an event.

    Args:
        number: The number of the event within the log, from 1 on.
        stream: The stream.
        data: The message, encoded by `encode_stored`.
        final: Whether the stream ends with this event.
        at: The time of the append in microseconds, not less than that of the event before.
        before: The sum of the sizes of all events before this one, in bytes.
    """
    return {
        "number": number,
        "stream": stream,
        "message": data.decode(),
        "final": final,
        "at": at,
        "before": before,
        "size": len(data),
    }


def to_event(key: str, document: Mapping[str, Any]) -> Event:
    """Return the event in a document of this key."""
    return stored_event(
        key, document["number"], document["stream"], document["message"].encode(), final=document["final"]
    )


def make_archive_id(log: str, number: int) -> str:
    """Return the `_id` of an event in the collection `events`; the ids sort as the numbers do."""
    return f"{log}:{number:018d}"


def filter_archived(log: str, after: int, before: int) -> Document:
    """Return the filter for the archived events of a log with numbers above `after` and below `before`."""
    return {"_id": {"$gt": make_archive_id(log, after), "$lt": make_archive_id(log, before)}}


def _make_empty_log() -> Document:
    # The id is unique, so events that a removed log of the same key has left behind do not belong to this log.
    return {"log": {"id": str(ObjectId()), "number": 0}, "ended": []}
