"""The body of a request, collected up to a bound.

A handler collects the body itself, so that it can refuse one that is too large before it is read.
"""

from __future__ import annotations

from typing import Final

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPServerRequest

from mcp_tornado.sessions import ErrorCode, SessionError

_DISCARD_SECONDS: Final = 5.0
"""How long Tornado's server reads and drops a body that is too large, so that the client sees the answer."""
_DISCARD_BYTES: Final = 64 * 1024 * 1024
"""How much it reads and drops of a chunked body that is too large."""
_MAX_LENGTH_DIGITS: Final = 15
"""A Content-Length with more digits is above every bound; Python refuses to convert one with thousands of digits."""


class RequestBody:
    """The bytes of a request's body that have arrived.

    Args:
        max_bytes: The largest body that is accepted.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._content = bytearray()
        self._is_too_large = False

    def check_declared_size(self, request: HTTPServerRequest) -> None:
        """Check `Content-Length`, before the body is read.

        Tornado's own server would close the connection over a body that is too large. It is set to read that much, so
        that the client sees the answer.

        Raises:
            SessionError: `PAYLOAD_TOO_LARGE`.
        """
        connection = request.connection
        declared = request.headers.get("Content-Length")
        if declared is None:
            if "Transfer-Encoding" in request.headers and isinstance(connection, HTTP1Connection):
                # `receive` counts the chunks. What is above the bound is read, but not kept.
                connection.set_max_body_size(max(self._max_bytes, _DISCARD_BYTES))
            return
        if not (declared.isascii() and declared.isdigit()):
            return  # Tornado refuses it
        if len(declared) > _MAX_LENGTH_DIGITS or int(declared) > self._max_bytes:
            if len(declared) <= _MAX_LENGTH_DIGITS and isinstance(connection, HTTP1Connection):
                connection.set_max_body_size(int(declared))
                connection.set_body_timeout(_DISCARD_SECONDS)
            raise self._too_large()

    def receive(self, chunk: bytes) -> None:
        """Add a piece; keep nothing once the body is too large."""
        if self._is_too_large:
            return
        if len(self._content) + len(chunk) > self._max_bytes:
            self._is_too_large = True
            self._content.clear()
        else:
            self._content += chunk

    def content(self) -> bytes:
        """Return the whole body.

        Raises:
            SessionError: `PAYLOAD_TOO_LARGE`.
        """
        if self._is_too_large:
            raise self._too_large()
        return bytes(self._content)

    def _too_large(self) -> SessionError:
        return SessionError(ErrorCode.PAYLOAD_TOO_LARGE, f"The body may have at most {self._max_bytes} bytes")
