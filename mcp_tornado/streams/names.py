"""The names of a session's streams in its event log, and what a name tells."""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Final

from mcp_tornado.jsonrpc import RequestId, decode, is_list, is_request_id
from mcp_tornado.sessions import EventId, EventLog, SessionError
from mcp_tornado.sessions.encoding import encode

STANDALONE: Final = "get"
"""What the server says unasked: the stream of GET `/mcp`."""
RESPONSE: Final = "post-"
"""How the name of a POST's stream begins."""
_IDS: Final = "ids-"
BACKGROUND: Final = "send-"
"""How the name of the stream of a call of `/mcp/send` begins."""


_MAX_IDS: Final = 512
"""How long the request ids in a stream's name may be; those of others stand in the log."""


def new_stream(prefix: str, process: str, request_ids: Sequence[RequestId]) -> str:
    """Return a new name for the stream of a POST or of a call of `/mcp/send`.

    It tells who writes the stream and which requests it answers, so that somebody else can end it when that process
    has died; where the ids are too long for that, see `ids_stream`. Names are unique by themselves: clients reuse ids.
    """
    name = f"{prefix}{process}-{secrets.token_hex(5)}"
    ids = urlsafe_b64encode(encode(list(request_ids))).decode().rstrip("=")
    return f"{name}-{ids}" if len(ids) <= _MAX_IDS else name


def ids_stream(stream: str) -> str | None:
    """Return the stream that has one event, `{"requests": […]}`, with what a stream answers; `None`: its name tells."""
    parts = stream.split("-", 3)
    return f"{_IDS}{parts[2]}" if len(parts) == 3 else None


async def requests_of(log: EventLog, key: str, stream: str) -> list[RequestId]:
    """Return the ids of the requests that a stream of a session answers, as far as they are known.

    Raises:
        SessionError: `STORE_UNAVAILABLE`.
    """
    apart = ids_stream(stream)
    if apart is None:
        return _requests_in(stream)
    found = await log.read(key, None, stream=apart, limit=1)
    return _request_ids((found[0].message or {}).get("requests")) if found else []


def owner_of(stream: str) -> str | None:
    """Return the process that writes a stream; `None` for the standalone one, which all write."""
    parts = stream.split("-", 3)
    return parts[1] if len(parts) > 2 else None


def _requests_in(stream: str) -> list[RequestId]:
    parts = stream.split("-", 3)
    if len(parts) < 4:
        return []
    try:
        ids = decode(urlsafe_b64decode(parts[3] + "=" * (-len(parts[3]) % 4)))
    except (ValueError, SessionError):  # clients can make names up
        return []
    return _request_ids(ids)


def _request_ids(value: Any) -> list[RequestId]:
    return [request_id for request_id in value if is_request_id(request_id)] if is_list(value) else []


def is_received(stream: str) -> bool:
    """Say whether `/mcp/receive` shows a stream: the standalone one, and those of `/mcp/send`."""
    return stream == STANDALONE or stream.startswith(BACKGROUND)


def just_before(event_id: str) -> str | None:
    """Return an id to start after so that this event is the first one read."""
    found = EventId.parse(event_id)
    if found is None or found.number <= 1:
        return None
    return str(EventId(found.number - 1, found.session, found.stream))
