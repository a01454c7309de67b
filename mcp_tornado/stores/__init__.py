"""Imports for store authors: the contracts, the data of sessions and events, the errors, and helpers."""

from mcp_tornado.sessions.encoding import decode_stored, encode_stored
from mcp_tornado.sessions.errors import (
    DuplicateSession,
    RevisionConflict,
    SessionGone,
    StoreError,
    StoreUnavailable,
    StreamEnded,
)
from mcp_tornado.sessions.ids import is_process_key, short_key
from mcp_tornado.sessions.model import ClientInfo, Session, from_microseconds, to_microseconds
from mcp_tornado.sessions.store import Clock, Event, EventBounds, EventId, EventLog, SessionStore
from mcp_tornado.stores.leases import Leases
from mcp_tornado.stores.options import check_options, event_bounds
from mcp_tornado.stores.record import Record, stored_event
from mcp_tornado.stores.stored_log import StoredLog
from mcp_tornado.stores.waiters import Waiters

__all__ = [
    "ClientInfo",
    "Clock",
    "DuplicateSession",
    "Event",
    "EventBounds",
    "EventId",
    "EventLog",
    "Leases",
    "Record",
    "RevisionConflict",
    "Session",
    "SessionGone",
    "SessionStore",
    "StoreError",
    "StoreUnavailable",
    "StoredLog",
    "StreamEnded",
    "Waiters",
    "check_options",
    "decode_stored",
    "encode_stored",
    "event_bounds",
    "from_microseconds",
    "is_process_key",
    "short_key",
    "stored_event",
    "to_microseconds",
]
