"""The HTTP request behind a message, as the hosted server is shown it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request as StarletteRequest

SESSION_HEADER: Final = "mcp-session-id"


@dataclass(frozen=True, slots=True)
class InboundRequest:
    """What the web layer knows of an HTTP request."""

    method: str
    scheme: str
    host: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    """Names in lower case; a name may come several times."""
    remote_addr: str

    def shown(self, session_key: str | None) -> StarletteRequest:
        """Return the request as tools see it, where the SDK has it: a Starlette request.

        The session's id never reaches a tool: its header holds the key, and is left out where there is no
        session.
        """
        headers: list[tuple[bytes, bytes]] = []
        for name, value in self.headers:
            if name == SESSION_HEADER:
                if session_key is None:
                    continue
                value = session_key
            headers.append((name.encode("latin-1", "replace"), value.encode("latin-1", "replace")))
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": self.method,
            "scheme": self.scheme,
            "path": self.path,
            "raw_path": self.path.encode("latin-1", "replace"),
            "root_path": "",
            "query_string": self.query.encode("latin-1", "replace"),
            "headers": headers,
            "client": (self.remote_addr, 0),
            "server": (self.host, None),
            "state": {},
        }
        return StarletteRequest(scope)
