"""The error of mcp-tornado for what Tornado refuses or a handler raises."""

from __future__ import annotations

from http.client import responses
from typing import Final

from mcp_tornado.sessions import ErrorCode, SessionError

_CODES: Final = {
    401: ErrorCode.UNAUTHORIZED,
    404: ErrorCode.ROUTE_NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    406: ErrorCode.NOT_ACCEPTABLE,
    413: ErrorCode.PAYLOAD_TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
}
"""The error codes of HTTP statuses; any other 4xx is `INVALID_REQUEST` with that status."""


def to_session_error(raised: BaseException | None, status: int) -> SessionError:
    """Return an exception as an error for the client, without its text unless it is a `SessionError`.

    Args:
        raised: The exception; `None` if Tornado refused the request without one.
        status: The HTTP status that Tornado chose.
    """
    if isinstance(raised, SessionError):
        return raised
    code = _CODES.get(status)
    if code is not None:
        return SessionError(code)
    if 400 <= status < 500:
        phrase = responses.get(status, "Refused")
        return SessionError(ErrorCode.INVALID_REQUEST, f"The HTTP request was refused: {phrase}", status=status)
    return SessionError(ErrorCode.INTERNAL_ERROR)
