"""The origin of a request: the client's address and the protocol."""

from __future__ import annotations

from dataclasses import dataclass

from tornado.httputil import HTTPHeaders
from tornado.netutil import is_valid_ip


@dataclass(frozen=True, slots=True)
class HTTPRequestContext:
    """The client's address and the protocol, under the names that `HTTPServerRequest` reads from its connection."""

    remote_ip: str
    protocol: str = "http"

    def with_forwarded_headers(self, headers: HTTPHeaders) -> HTTPRequestContext:
        """Return the context that a proxy states in its headers, read as by Tornado's `xheaders` option."""
        remote_ip = headers.get("X-Forwarded-For", self.remote_ip).rpartition(",")[2].strip()
        remote_ip = headers.get("X-Real-Ip", remote_ip)
        protocol = headers.get("X-Scheme", headers.get("X-Forwarded-Proto", self.protocol)).rpartition(",")[2].strip()
        return HTTPRequestContext(
            remote_ip if is_valid_ip(remote_ip) else self.remote_ip,
            protocol if protocol in ("http", "https") else self.protocol,
        )
