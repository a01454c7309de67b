"""Server-sent events: the bytes and the headers of `text/event-stream` (HTML standard, server-sent events)."""

from __future__ import annotations

from typing import Final

from mcp_tornado.sessions.encoding import encode
from mcp_tornado.streams.frames import Frame

EVENT_STREAM: Final = "text/event-stream"

STREAM_HEADERS: Final = {
    "Content-Type": EVENT_STREAM,
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
"""The headers of an event stream, which a proxy must not cache, change or buffer."""

_LINE_SEPARATORS: Final = tuple(
    (character.encode(), f"\\u{ord(character):04x}".encode()) for character in ("\x85", "\u2028", "\u2029")
)

KEEPALIVE: Final = b": keepalive\n\n"
"""A comment, which a client ignores."""


def encode_event(frame: Frame, retry: int | None) -> bytes:
    """Return a frame as an event; empty if there is nothing to send.

    Args:
        frame: A message; a priming event, which has an id and no data; or neither.
        retry: The reconnection time in milliseconds; `None` leaves it out.
    """
    lines: list[bytes] = []
    if frame.id is not None:
        lines.append(b"id: " + frame.id.encode("ascii"))
    if retry is not None:
        lines.append(b"retry: %d" % retry)
    if frame.message is not None:
        lines.append(b"event: message")
        lines.append(b"data: " + _escape_line_separators(encode(frame.message)))
    elif frame.id is not None:
        lines.append(b"data: ")
    return b"\n".join(lines) + b"\n\n" if lines else b""


def _escape_line_separators(text: bytes) -> bytes:
    """Return JSON with escapes for the characters that some clients take for the end of a line.

    They occur only inside of strings, where an escape means the same character.
    """
    for character, escape in _LINE_SEPARATORS:
        if character in text:
            text = text.replace(character, escape)
    return text
