"""Request targets in absolute form, `http://host/path` (RFC 9112, section 3.2.2)."""

from __future__ import annotations

import re
from typing import Final

from tornado.httputil import HTTPHeaders

_ABSOLUTE: Final = re.compile(r"https?://(?P<authority>[^/?#@]+)(?P<rest>(?:[/?].*)?)", re.IGNORECASE)


def to_origin_form(target: str, headers: HTTPHeaders) -> str:
    """Return a target as path and query. The authority of an absolute target takes the place of `Host`.

    Several `Host` headers stay, so that the request is refused.
    """
    match = _ABSOLUTE.fullmatch(target) if not target.startswith("/") else None
    if match is None:
        return target
    if len(headers.get_list("Host")) <= 1:
        headers["Host"] = match["authority"]
    return match["rest"] if match["rest"].startswith("/") else f"/{match['rest']}"
