"""The names of a session's streams in its event log, and what is read from a name.

- `get`: the standalone stream, which all processes write.
- `post-<process>-<token>-<ids>`: the stream of a POST. `<process>` writes it. `<ids>` are the ids of the requests that
  it answers, as base64url of a JSON array.
- `send-<process>-<token>-<ids>`: the same for a call of `/mcp/send`.
- `ids-<token>`: the request ids of a stream that are too long for its name; then the name has no `<ids>`.

The name of the process and the request ids allow any other process to end the stream when its process has died.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Final

from mcp_tornado.jsonrpc import RequestId, decode, is_list, is_request_id
from mcp_tornado.sessions import EventId, EventLog, SessionError
from mcp_tornado.sessions.encoding import encode

STANDALONE: Final = "get"
"""The name of the standalone stream (GET `/mcp`): the messages of the server that belong to no request."""
RESPONSE: Final = "post-"
"""Prefix of the name of a POST's stream."""
BACKGROUND: Final = "send-"
"""Prefix of the name of the stream of a call of `/mcp/send`."""

_IDS: Final = "ids-"
_MAX_IDS_LENGTH: Final = 512
"""Longest encoded request ids in a stream's name, in characters."""


def new_stream_name(prefix: str, process: str, request_ids: Sequence[RequestId]) -> str:
    """Return a new name for the stream of a POST or of a call of `/mcp/send`.

    A random token makes it unique: clients reuse request ids.
    """
    name = f"{prefix}{process}-{secrets.token_hex(5)}"
    ids = urlsafe_b64encode(encode(list(request_ids))).decode().rstrip("=")
    return f"{name}-{ids}" if len(ids) <= _MAX_IDS_LENGTH else name


def request_ids_stream(stream: str) -> str | None:
    """Return the name of the stream that holds the request ids of a stream; `None` if the name itself holds them.

    That stream has one event: `{"requests": […]}`.
    """
    parts = stream.split("-", 3)
    return f"{_IDS}{parts[2]}" if len(parts) == 3 else None


async def read_request_ids(log: EventLog, key: str, stream: str) -> list[RequestId]:
    """Return the ids of the requests that a stream of a session answers; empty if they are not known.

    Raises:
        SessionError: `STORE_UNAVAILABLE`.
    """
    ids_stream = request_ids_stream(stream)
    if ids_stream is None:
        return _request_ids_in(stream)
    found = await log.read(key, None, stream=ids_stream, limit=1)
    return _only_request_ids((found[0].message or {}).get("requests")) if found else []


def owner_of(stream: str) -> str | None:
    """Return the name of the process that writes a stream; `None` for the standalone stream, which all write."""
    parts = stream.split("-", 3)
    return parts[1] if len(parts) > 2 else None


def _request_ids_in(stream: str) -> list[RequestId]:
    parts = stream.split("-", 3)
    if len(parts) < 4:
        return []
    try:
        ids = decode(urlsafe_b64decode(parts[3] + "=" * (-len(parts[3]) % 4)))
    except (ValueError, SessionError):  # a client can make up the name of a stream
        return []
    return _only_request_ids(ids)


def _only_request_ids(value: Any) -> list[RequestId]:
    return [request_id for request_id in value if is_request_id(request_id)] if is_list(value) else []


def is_received(stream: str) -> bool:
    """Return whether `/mcp/receive` shows a stream: the standalone stream, and those of calls of `/mcp/send`."""
    return stream == STANDALONE or stream.startswith(BACKGROUND)


def is_client_stream(stream: str) -> bool:
    """Return whether a client may read a stream with GET: the standalone stream, or the stream of a call."""
    return stream == STANDALONE or (stream.startswith((RESPONSE, BACKGROUND)) and owner_of(stream) is not None)


def first_standalone_id(key: str) -> EventId:
    """Return the id of the priming event of a session's standalone stream. A client resumes from it at the beginning.

    The log has no such event: numbers begin with 1.
    """
    return EventId.of(0, key, STANDALONE)


def position_before(event_id: str) -> str | None:
    """Return the id to read after so that the given event is read first; `None` is the beginning of the log."""
    found = EventId.parse(event_id)
    if found is None or found.number <= 1:
        return None
    return str(EventId(found.number - 1, found.session, found.stream))
