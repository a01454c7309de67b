"""What a store author needs: the contracts, what sessions and events are, and what to raise."""

from mcp_tornado.sessions.errors import (
    DuplicateSession,
    RevisionConflict,
    SessionGone,
    StoreError,
    StoreUnavailable,
    StreamEnded,
)
from mcp_tornado.sessions.model import ClientInfo, Session
from mcp_tornado.sessions.store import Clock, Event, EventBounds, EventId, EventLog, SessionStore

__all__ = [
    "ClientInfo",
    "Clock",
    "DuplicateSession",
    "Event",
    "EventBounds",
    "EventId",
    "EventLog",
    "RevisionConflict",
    "Session",
    "SessionGone",
    "SessionStore",
    "StoreError",
    "StoreUnavailable",
    "StreamEnded",
]
