"""The error of mcp-tornado for what Tornado refuses or a handler raises."""

from __future__ import annotations

from typing import Final

from mcp_tornado.sessions import ErrorCode, SessionError

_CODES: Final = {
    404: ErrorCode.ROUTE_NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.PAYLOAD_TOO_LARGE,
}
"""The error codes of HTTP statuses; any other 4xx is `INVALID_REQUEST`."""


def to_session_error(raised: BaseException | None, status: int) -> SessionError:
    """Return an exception as an error for the client, without its text unless it is a `SessionError`.

    Args:
        raised: The exception; `None` if Tornado refused the request without one.
        status: The HTTP status that Tornado chose.
    """
    if isinstance(raised, SessionError):
        return raised
    code = _CODES.get(status)
    if code is None:
        code = ErrorCode.INVALID_REQUEST if 400 <= status < 500 else ErrorCode.INTERNAL_ERROR
    return SessionError(code)
