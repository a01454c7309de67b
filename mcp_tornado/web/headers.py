"""Values of HTTP headers: the `Accept` of a request, the `Date` of a response."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache

_cached_date: tuple[int, str] = (0, "")
"""A time in seconds, and the `Date` of that second."""


@lru_cache(maxsize=256)
def accepts(accept: str | None, media_type: str) -> bool:
    """Return whether an `Accept` header names a media type, in full or by a wildcard; `None` accepts every type.

    The cache helps because a client sends the same header with every request.
    """
    if accept is None:
        return True
    named = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return not named.isdisjoint({media_type, f"{media_type.partition('/')[0]}/*", "*/*"})


def current_date() -> str:
    """Return the `Date` of now (RFC 9110, section 6.6.1), formatted once a second."""
    global _cached_date
    now = int(time.time())
    if _cached_date[0] != now:
        _cached_date = (now, formatdate(now, usegmt=True))
    return _cached_date[1]
