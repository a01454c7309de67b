"""Host and Origin checks: they keep web pages from reaching a local server through DNS rebinding."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

_WILDCARD: Final = "*"
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]+))?")


class HostGuard:
    """Checks `Host` headers against a list.

    An entry without a port allows every port, `*.example.com` allows every name below that domain, and `*` allows
    every host. An IP address is always allowed: a page that uses DNS rebinding is loaded from a name, and the browser
    sends that name.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allows_all = _WILDCARD in allowed
        self._allowed = frozenset(entry.lower() for entry in allowed)

    def allows(self, host: str) -> bool:
        """Return whether a request with this `Host` header may be served."""
        return self._allows_all or _allows_host(host.lower(), self._allowed)


def is_loopback(host: str) -> bool:
    """Return whether an entry of `server.allowed_hosts`, or an address, means this machine alone."""
    match = _AUTHORITY.fullmatch(host.lower())
    name = match["host"].strip("[]") if match is not None else host
    try:
        return ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


class OriginGuard:
    """Checks `Origin` headers against a list; an entry without a port allows every port, `*` allows every origin."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allows_all = _WILDCARD in allowed
        self._allowed = frozenset(entry.lower().rstrip("/") for entry in allowed)

    def allows(self, origin: str) -> bool:
        """Return whether a page of this origin may use the server."""
        if self._allows_all:
            return True
        scheme, separator, authority = origin.lower().partition("://")
        return bool(separator) and _matches(authority, f"{scheme}://", self._allowed)


@lru_cache(maxsize=256)
def _allows_host(authority: str, allowed: frozenset[str]) -> bool:
    match = _AUTHORITY.fullmatch(authority)
    if match is None or _WILDCARD in authority:
        return False
    host, port = match["host"], match["port"]
    if _is_ip_address(host) or authority in allowed or host in allowed:
        return True
    suffix = f":{port}" if port is not None else ""
    labels = host.split(".")
    domains = [".".join(labels[index:]) for index in range(1, len(labels))]
    return all(labels) and any(f"*.{domain}" in allowed or f"*.{domain}{suffix}" in allowed for domain in domains)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    # The pattern of an authority allows an IPv6 address only in brackets.
    return True


@lru_cache(maxsize=256)
def _matches(authority: str, prefix: str, allowed: frozenset[str]) -> bool:
    match = _AUTHORITY.fullmatch(authority)
    return match is not None and (prefix + authority in allowed or prefix + match["host"] in allowed)
