"""Sessions: the data, the rules, the manager, and the interface of stores.

No module here imports the SDK or an HTTP module. Of Tornado, `cleanup` uses the timer.
"""

from mcp_tornado.sessions.cleanup import CleanupService
from mcp_tornado.sessions.errors import (
    ERRORS,
    DuplicateSession,
    ErrorCode,
    ErrorSpec,
    RevisionConflict,
    SessionError,
    SessionGone,
    StateTooLarge,
    StoreError,
    StoreUnavailable,
    StreamEnded,
)
from mcp_tornado.sessions.ids import is_process_key, is_well_formed, new_session_id, session_key, short_key
from mcp_tornado.sessions.manager import SessionManager
from mcp_tornado.sessions.model import ClientInfo, Session
from mcp_tornado.sessions.rules import SessionRules
from mcp_tornado.sessions.store import Clock, Event, EventBounds, EventId, EventLog, SessionStore, system_clock

__all__ = [
    "ERRORS",
    "CleanupService",
    "ClientInfo",
    "Clock",
    "DuplicateSession",
    "ErrorCode",
    "ErrorSpec",
    "Event",
    "EventBounds",
    "EventId",
    "EventLog",
    "RevisionConflict",
    "Session",
    "SessionError",
    "SessionGone",
    "SessionManager",
    "SessionRules",
    "SessionStore",
    "StateTooLarge",
    "StoreError",
    "StoreUnavailable",
    "StreamEnded",
    "is_process_key",
    "is_well_formed",
    "new_session_id",
    "session_key",
    "short_key",
    "system_clock",
]
