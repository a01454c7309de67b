"""Values of HTTP headers: the `Accept` of a request, repeated headers, the `Date` of a response."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from tornado.httputil import HTTPHeaders

_QUOTED: Final = re.compile(r'"(?:\\.|[^"\\])*"?')
_ZERO: Final = re.compile(r"0(?:\.0*)?")
_SINGLE_VALUED: Final = (
    "Mcp-Session-Id",
    "MCP-Protocol-Version",
    "Content-Type",
    "Accept",
    "Origin",
    "Last-Event-ID",
)
"""The request headers that count once if they are sent several times with the same value."""

_cached_date: tuple[int, str] = (0, "")
"""A time in seconds, and the `Date` of that second."""


def accepts(accept: str | None, media_type: str) -> bool:
    """Return whether an `Accept` header accepts a media type (RFC 9110, section 12.5.1); `None` accepts every type.

    The most specific media range that matches decides; a weight of 0 excludes what it matches. Parameters other than
    the weight are ignored.
    """
    if accept is None:
        return True
    ranges = _media_ranges(accept)
    for media_range in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        if media_range in ranges:
            return ranges[media_range]
    return False


def names(accept: str | None, media_type: str) -> bool:
    """Return whether an `Accept` header accepts a media type in full, not by a wildcard."""
    return accept is not None and _media_ranges(accept).get(media_type, False)


@lru_cache(maxsize=256)
def _media_ranges(accept: str) -> Mapping[str, bool]:
    """Return whether each media range of an `Accept` header has a weight above 0.

    The cache helps because a client sends the same header with every request.
    """
    ranges: dict[str, bool] = {}
    for element in _QUOTED.sub("", accept).lower().split(","):
        media_range, *parameters = (part.strip() for part in element.split(";"))
        weights = [value.strip() for name, _, value in (part.partition("=") for part in parameters) if name == "q"]
        is_accepted = not (weights and _ZERO.fullmatch(weights[0]))
        ranges[media_range] = is_accepted or ranges.get(media_range, False)
    return ranges


def merge_repeated(headers: HTTPHeaders) -> None:
    """Keep one of the identical values of a header that must have one value but is sent several times."""
    for name in _SINGLE_VALUED:
        values = headers.get_list(name)
        if len(values) > 1 and len(set(values)) == 1:
            headers[name] = values[0]


def current_date() -> str:
    """Return the `Date` of now (RFC 9110, section 6.6.1), formatted once a second."""
    global _cached_date
    now = int(time.time())
    if _cached_date[0] != now:
        _cached_date = (now, formatdate(now, usegmt=True))
    return _cached_date[1]
