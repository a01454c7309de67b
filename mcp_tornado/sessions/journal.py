"""The journal: which session-scoped requests another process must repeat to serve a session.

A server keeps what `logging/setLevel` and `resources/subscribe` did in the memory of one process. The journal
keeps the requests, compacted to the last word on the level and on each resource.
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
"""How many entries a session's journal holds at the most: one per subscribed resource, and the level."""

JOURNAL_BYTES: Final = 262_144
"""How long a session's journal may be as JSON."""

Journal = Sequence[Mapping[str, Any]]


def is_known(entry: Mapping[str, Any]) -> bool:
    """Say whether this version knows what an entry means: a newer one, which shares the store, may write others."""
    return entry.get("method") in JOURNALED_METHODS and isinstance(entry.get("params"), Mapping)


def subscribed_uris(journal: Journal) -> set[str]:
    """Return the resources that a session is subscribed to."""
    return {str(entry["params"].get("uri")) for entry in journal if is_known(entry) and entry["method"] == SUBSCRIBE}


def _subject(method: str, params: Mapping[str, Any]) -> str:
    """What an entry has the last word on: the level, or one resource."""
    return "level" if method == "logging/setLevel" else f"resource {params.get('uri')}"


def with_entry(journal: Journal, method: str, params: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Return the journal after one more request, compacted; entries that are not known are kept as they are."""
    subject = _subject(method, params)
    kept = [entry for entry in journal if not is_known(entry) or _subject(entry["method"], entry["params"]) != subject]
    if method != UNSUBSCRIBE:
        kept.append({"method": method, "params": dict(params)})
    return tuple(kept)


def has_room(journal: Journal, method: str, params: Mapping[str, Any]) -> bool:
    """Say whether the journal can take this request within `JOURNAL_LIMIT` and `JOURNAL_BYTES`."""
    after = with_entry(journal, method, params)
    return len(after) <= JOURNAL_LIMIT and len(encode(list(after))) <= JOURNAL_BYTES
