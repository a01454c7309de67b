"""The origin of a request: the client's address and the protocol."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from tornado.httputil import HTTPHeaders
from tornado.netutil import is_valid_ip

_ADDRESS_WITH_PORT: Final = re.compile(r"\[(?P<v6>[0-9A-Fa-f:.]+)\](:\d{1,5})?|(?P<v4>[0-9.]+):\d{1,5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HTTPRequestContext:
    """The client's address and the protocol, under the names that `HTTPServerRequest` reads from its connection."""

    remote_ip: str
    protocol: str = "http"

    def with_forwarded_headers(self, headers: HTTPHeaders) -> HTTPRequestContext:
        """Return the context that a proxy states in its headers.

        They are read as by Tornado's `xheaders` option; the address may also have a port, as some proxies send it.
        """
        remote_ip = headers.get("X-Forwarded-For", self.remote_ip).rpartition(",")[2].strip()
        remote_ip = _without_port(headers.get("X-Real-Ip", remote_ip).strip())
        protocol = headers.get("X-Scheme", headers.get("X-Forwarded-Proto", self.protocol)).rpartition(",")[2].strip()
        return HTTPRequestContext(
            remote_ip if is_valid_ip(remote_ip) else self.remote_ip,
            protocol if protocol in ("http", "https") else self.protocol,
        )


def _without_port(address: str) -> str:
    """Return the address in `203.0.113.7:17085`, `[2001:db8::1]:17085` or `[2001:db8::1]`; others are unchanged."""
    match = _ADDRESS_WITH_PORT.fullmatch(address)
    return match["v6"] or match["v4"] if match is not None else address
