"""The journal: the session-scoped requests that another process must repeat to serve a session.

An MCP server keeps the effect of `logging/setLevel` and `resources/subscribe` in the memory of one process. The
journal keeps the requests. It is compacted to the last request for the level and for each resource.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mcp_tornado.sessions.encoding import encode

SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"

JOURNALED_METHODS: Final = frozenset({"logging/setLevel", SUBSCRIBE, UNSUBSCRIBE})
"""The requests whose effect belongs to the session (MCP 2025-11-25, server/utilities/logging and
server/resources)."""

JOURNAL_LIMIT: Final = 1000
"""Maximum number of entries in a session's journal: one for each subscribed resource, and one for the level."""

JOURNAL_BYTES: Final = 262_144
"""Maximum size of a session's journal as JSON, in bytes."""

Journal = Sequence[Mapping[str, Any]]


def is_known(entry: Mapping[str, Any]) -> bool:
    """Return whether this version knows the entry. A newer version that shares the store may write other entries."""
    return entry.get("method") in JOURNALED_METHODS and isinstance(entry.get("params"), Mapping)


def subscribed_uris(journal: Journal) -> set[str]:
    """Return the URIs of the resources that a session is subscribed to."""
    return {str(entry["params"].get("uri")) for entry in journal if is_known(entry) and entry["method"] == SUBSCRIBE}


def _subject(method: str, params: Mapping[str, Any]) -> str:
    """Return what a request sets: the level, or the subscription to one resource. Only its last request is kept."""
    return "level" if method == "logging/setLevel" else f"resource {params.get('uri')}"


def with_entry(journal: Journal, method: str, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the compacted journal with one more request. Entries that this version does not know are kept."""
    subject = _subject(method, params)
    kept = [entry for entry in journal if not is_known(entry) or _subject(entry["method"], entry["params"]) != subject]
    if method != UNSUBSCRIBE:
        kept.append({"method": method, "params": dict(params)})
    return tuple(kept)


def has_room(journal: Journal, method: str, params: Mapping[str, Any]) -> bool:
    """Return whether the journal with this request stays within `JOURNAL_LIMIT` and `JOURNAL_BYTES`."""
    after = with_entry(journal, method, params)
    return len(after) <= JOURNAL_LIMIT and len(encode(list(after))) <= JOURNAL_BYTES
