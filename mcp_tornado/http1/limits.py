"""Bounds of the HTTP server: sizes in bytes, counts, and times in seconds."""

from __future__ import annotations

from typing import Final

BACKLOG_CONNECTIONS: Final = 2048
"""How many connections wait until they are accepted. A client whose connection is dropped tries again after 1 s.

The system may have a lower bound (`net.core.somaxconn`).
"""

MAX_HEAD_BYTES: Final = 65_536
"""Largest head of a request, trailers included. The server holds a head in memory until it is complete."""

MAX_BODY_BYTES: Final = 104_857_600
"""Largest body of a request, unless its handler sets another bound. The handlers of mcp-tornado refuse much less."""

MAX_BUFFERED_BODY_BYTES: Final = 1_048_576
"""A connection stops reading while more than this of a body waits for its handler, so that memory stays bounded."""

MAX_PIPELINED_REQUESTS: Final = 16
"""A connection stops reading while it holds more unanswered requests than this (RFC 9112, section 9.3.2)."""

IDLE_TIMEOUT_SECONDS: Final = 600.0
"""A kept-alive connection is closed after this time without a request."""

STALL_TIMEOUT_SECONDS: Final = 60.0
"""A connection is closed if it has sent a part of a request and then nothing for this time."""

HALF_CLOSED_SECONDS: Final = 1.0
"""How long a client that has closed its sending side waits for an answer before it counts as disconnected.

A client that has gone closes the connection in the same way.
"""

LINGER_SECONDS: Final = 5.0
"""After an answer to a request that it has not read to the end, the server reads and drops input for this time.

A connection that is closed at once may be reset before the client has read the answer.
"""

TIMEOUT_CHECK_SECONDS: Final = 5.0
"""Interval between two checks of all connections for timeouts. One shared timer costs less than one per request."""

CLOSE_TIMEOUT_SECONDS: Final = 2.0
"""`Server.close_all_connections` aborts a connection that has not sent its output after this time."""
