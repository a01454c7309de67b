"""Host and Origin checks: what keeps a web page from reaching a local server through DNS rebinding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

_ANY: Final = "*"
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]+))?")


class HostGuard:
    """Checks `Host` headers against a list; an entry without a port allows every port, `*` everything."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._any = _ANY in allowed
        self._allowed = frozenset(entry.lower() for entry in allowed)

    def allows(self, host: str) -> bool:
        """Say whether a request with this `Host` header may be served."""
        return self._any or _matches(host.lower(), "", self._allowed)


class OriginGuard:
    """Checks `Origin` headers against a list; an entry without a port allows every port, `*` everything."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._any = _ANY in allowed
        self._allowed = frozenset(entry.lower().rstrip("/") for entry in allowed)

    def allows(self, origin: str) -> bool:
        """Say whether a page of this origin may use the server."""
        if self._any:
            return True
        scheme, separator, authority = origin.lower().partition("://")
        return bool(separator) and _matches(authority, f"{scheme}://", self._allowed)


@lru_cache(maxsize=256)
def _matches(authority: str, prefix: str, allowed: frozenset[str]) -> bool:
    found = _AUTHORITY.fullmatch(authority)
    return found is not None and (prefix + authority in allowed or prefix + found["host"] in allowed)
