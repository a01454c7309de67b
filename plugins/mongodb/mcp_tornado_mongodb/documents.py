"""What the documents look like.

A session is one document of the collection `sessions`:

    _id        its key
    times      {last_seen_at, expires_at}: microseconds, what is compared; {expires}: a date, for the TTL index
    revision   see `Session.revision`
    principal  see `Session.principal`
    payload    the whole session as JSON
    log        {id, number}: which log of events, and how many events it has had
    newest     its newest event, see `event_document`; missing where there was none
    ended      the streams that had their final event, oldest first

A process (a key that begins with `@`) has a document there too, without what makes a session: `times` holds the date
alone, so nothing that looks for sessions finds it. All events but the newest are in the collection `events`.

`times`, `log` and `newest` are always set whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bson import ObjectId

from mcp_tornado.stores import Event, Record, Session, from_microseconds, stored_event
from mcp_tornado_mongodb.deployment import Document

SECOND: Final = 1_000_000
"""Microseconds in a second."""

SESSION_FIELDS: Final = {"times": 1, "revision": 1, "principal": 1, "payload": 1}
"""The projection that leaves the events out."""


def new_session(session: Session) -> Document:
    """Return the document of a session that is new.

    Raises:
        TypeError, ValueError: It holds something that JSON does not have.
    """
    record = Record.of(session)
    return {
        "_id": session.key,
        "times": times(record.last_seen_at, record.expires_at),
        **changed_fields(record),
        **_empty_log(),
    }


def new_process(key: str, expires: int) -> Document:
    """Return the document of a process without events, which is kept until `expires` (microseconds)."""
    return {"_id": key, "times": process_times(expires), **_empty_log()}


def times(last_seen_at: int, expires_at: int) -> Document:
    """Return the times of a session, given in microseconds."""
    return {"last_seen_at": last_seen_at, "expires_at": expires_at, "expires": from_microseconds(expires_at)}


def process_times(expires: int) -> Document:
    """Return the times of a process, given in microseconds."""
    return {"expires": from_microseconds(expires)}


def changed_fields(record: Record) -> Document:
    """Return the fields of a session that an update changes, without the times."""
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


def event_document(number: int, stream: str, data: bytes, final: bool, at: int, before: int) -> Document:
    """Return an event.

    Args:
        number: Its number within the log, from 1 on.
        stream: Its stream.
        data: The message as `encode_stored` writes it.
        final: Whether the stream ends with it.
        at: When it was appended, in microseconds; never less than the event before.
        before: The sum of the sizes of all events before it, in bytes.
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
    """Return an event of this key from its document."""
    return stored_event(
        key, document["number"], document["stream"], document["message"].encode(), final=document["final"]
    )


def archive_key(log: str, number: int) -> str:
    """Return the `_id` under which the collection `events` has an event; it sorts as the numbers do."""
    return f"{log}:{number:018d}"


def archived_between(log: str, after: int, before: int) -> Document:
    """Return the filter for the archived events of a log with numbers above `after` and below `before`."""
    return {"_id": {"$gt": archive_key(log, after), "$lt": archive_key(log, before)}}


def _empty_log() -> Document:
    # An id of its own: what was left behind by a log that was removed is never taken for this one's.
    return {"log": {"id": str(ObjectId()), "number": 0}, "ended": []}
