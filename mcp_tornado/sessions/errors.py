"""The table of the errors that mcp-tornado answers with, and the errors that stores raise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INTERNAL_ERROR: Final = -32603


class ErrorCode(StrEnum):
    """The symbolic code of a row of `ERRORS`, in `error.data.code`.

    These errors have no such code: cancelled requests (-32800), requests whose process has died or whose events were
    evicted (-32000), refusals that the SDK makes in the stateless era, and errors that the SDK or the server raises.
    """

    SESSION_REQUIRED = "SESSION_REQUIRED"
    SESSION_ID_MALFORMED = "SESSION_ID_MALFORMED"
    SESSION_NOT_FOUND = "SESSION_NOT_FOUND"
    SESSION_EXPIRED = "SESSION_EXPIRED"
    SESSION_LIMIT_REACHED = "SESSION_LIMIT_REACHED"
    SESSION_CREATION_FAILED = "SESSION_CREATION_FAILED"
    SESSION_CONFLICT = "SESSION_CONFLICT"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    REQUEST_NOT_FOUND = "REQUEST_NOT_FOUND"
    PARSE_ERROR = "PARSE_ERROR"
    INVALID_REQUEST = "INVALID_REQUEST"
    UNSUPPORTED_PROTOCOL_VERSION = "UNSUPPORTED_PROTOCOL_VERSION"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    NOT_ACCEPTABLE = "NOT_ACCEPTABLE"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    ROUTE_NOT_FOUND = "ROUTE_NOT_FOUND"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    FORBIDDEN_ORIGIN = "FORBIDDEN_ORIGIN"
    MISDIRECTED_HOST = "MISDIRECTED_HOST"
    SERVER_DRAINING = "SERVER_DRAINING"
    UNAUTHORIZED = "UNAUTHORIZED"
    INTERNAL_ERROR = "INTERNAL_ERROR"


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One row of the table: HTTP status, JSON-RPC code, default message, and `Retry-After` in seconds or `None`."""

    status: int
    rpc_code: int
    message: str
    retry_after: int | None = None


ERRORS: Final[Mapping[ErrorCode, ErrorSpec]] = MappingProxyType(
    {
        ErrorCode.SESSION_REQUIRED: ErrorSpec(
            400,
            INVALID_REQUEST,
            "This request needs a session: send the Mcp-Session-Id header of the answer to initialize",
        ),
        ErrorCode.SESSION_ID_MALFORMED: ErrorSpec(
            400, INVALID_REQUEST, "Mcp-Session-Id must be sent once, as 1 to 128 visible ASCII characters"
        ),
        ErrorCode.SESSION_NOT_FOUND: ErrorSpec(404, INVALID_REQUEST, "Session not found"),
        ErrorCode.SESSION_EXPIRED: ErrorSpec(404, INVALID_REQUEST, "Session expired"),
        ErrorCode.SESSION_LIMIT_REACHED: ErrorSpec(503, INVALID_REQUEST, "Too many sessions are open", 5),
        ErrorCode.SESSION_CREATION_FAILED: ErrorSpec(500, INTERNAL_ERROR, "The session could not be created"),
        ErrorCode.SESSION_CONFLICT: ErrorSpec(
            409, INVALID_REQUEST, "Another request changed the session at the same time"
        ),
        ErrorCode.STORE_UNAVAILABLE: ErrorSpec(503, INTERNAL_ERROR, "The session store did not answer in time", 2),
        ErrorCode.REQUEST_NOT_FOUND: ErrorSpec(404, INVALID_REQUEST, "No running request has this id"),
        ErrorCode.PARSE_ERROR: ErrorSpec(400, PARSE_ERROR, "The body is not valid JSON"),
        ErrorCode.INVALID_REQUEST: ErrorSpec(400, INVALID_REQUEST, "The body is not a valid JSON-RPC message"),
        ErrorCode.UNSUPPORTED_PROTOCOL_VERSION: ErrorSpec(400, INVALID_REQUEST, "Unsupported MCP-Protocol-Version"),
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: ErrorSpec(
            415, INVALID_REQUEST, "The body must be JSON: send Content-Type: application/json"
        ),
        ErrorCode.NOT_ACCEPTABLE: ErrorSpec(
            406, INVALID_REQUEST, "The Accept header names no content type that this route serves"
        ),
        ErrorCode.METHOD_NOT_ALLOWED: ErrorSpec(405, INVALID_REQUEST, "This method is not allowed on this route"),
        ErrorCode.ROUTE_NOT_FOUND: ErrorSpec(404, INVALID_REQUEST, "Nothing is served at this path"),
        ErrorCode.PAYLOAD_TOO_LARGE: ErrorSpec(413, INVALID_REQUEST, "The body is too large"),
        ErrorCode.FORBIDDEN_ORIGIN: ErrorSpec(403, INVALID_REQUEST, "This Origin is not in server.allowed_origins"),
        ErrorCode.MISDIRECTED_HOST: ErrorSpec(421, INVALID_REQUEST, "This Host is not in server.allowed_hosts"),
        ErrorCode.SERVER_DRAINING: ErrorSpec(503, INTERNAL_ERROR, "The server is shutting down", 1),
        ErrorCode.UNAUTHORIZED: ErrorSpec(401, INVALID_REQUEST, "Authentication is required"),
        ErrorCode.INTERNAL_ERROR: ErrorSpec(500, INTERNAL_ERROR, "Internal server error"),
    }
)


class SessionError(Exception):
    """An error for the client, made from the table.

    Args:
        code: The row of `ERRORS`.
        message: A message instead of the row's. The client receives it, so it must hold no secret.
        status: An HTTP status instead of the row's.
        data: Members for `error.data` in addition to `code`.
        reason: A reason for the log; the client never receives it.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        *,
        status: int | None = None,
        data: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        spec = ERRORS[code]
        self.code = code
        self.message = message if message is not None else spec.message
        self.status = status if status is not None else spec.status
        self.retry_after = spec.retry_after
        self.data = {**(data or {}), "code": code.value}
        self.reason = reason if reason is not None else code.value.lower()
        super().__init__(self.message)

    def to_error(self) -> dict[str, Any]:
        """Return the JSON-RPC error object: `code`, `message`, `data`."""
        return {"code": ERRORS[self.code].rpc_code, "message": self.message, "data": self.data}


class StoreError(Exception):
    """Base class of the errors that a store raises."""


class DuplicateSession(StoreError):
    """`create` found that the key is taken."""


class RevisionConflict(StoreError):
    """`update` found another record revision than the expected one."""


class StoreUnavailable(StoreError):
    """The store is closed, cannot be reached, or did not answer in time."""


class SessionGone(StoreError):
    """`append` found that the session has ended or expired."""


class StreamEnded(StoreError):
    """`append` found that the stream already has its final event."""


class StateTooLarge(ValueError):
    """The application's state of a session would be larger than `sessions.max_state_bytes`."""
