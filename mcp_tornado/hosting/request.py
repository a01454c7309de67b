"""The HTTP request behind a message, as the hosted server is shown it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from starlette.requests import Request as StarletteRequest

SESSION_HEADER: Final = "mcp-session-id"


class HeaderSource(Protocol):
    """Where headers come from: Tornado's `HTTPHeaders`, for one."""

    def get_all(self) -> Iterable[tuple[str, str]]:
        """Return names and values, in whatever case."""
        ...


@dataclass(frozen=True, slots=True)
class InboundRequest:
    """What the web layer knows of an HTTP request."""

    method: str
    scheme: str
    host: str
    path: str
    query: str
    raw_headers: HeaderSource
    remote_addr: str

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers, names in lower case; a name may come several times."""
        return [(name.lower(), value) for name, value in self.raw_headers.get_all()]

    def shown(self, session_key: str | None) -> StarletteRequest:
        """Return the request as tools see it, where the SDK has it: a Starlette request.

        The session's id never reaches a tool: its header holds the key, and is left out where there is no
        session.
        """
        return _ShownRequest(self, session_key)

    def to_scope(self, session_key: str | None) -> dict[str, Any]:
        """Return the ASGI scope of the request that tools see."""
        headers: list[tuple[bytes, bytes]] = []
        for name, value in self.headers:
            if name == SESSION_HEADER:
                if session_key is None:
                    continue
                value = session_key
            headers.append((name.encode("latin-1", "replace"), value.encode("latin-1", "replace")))
        return {
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


class _ShownRequest(StarletteRequest):
    """A Starlette request that is only made up once a tool looks at it; most never do."""

    def __init__(self, inbound: InboundRequest, session_key: str | None) -> None:
        self._inbound = inbound
        self._session_key = session_key

    def __getattr__(self, name: str) -> Any:
        # Only called for what is not there: at first, all that Starlette's own __init__ sets.
        if "scope" in self.__dict__ or name.startswith("__"):
            raise AttributeError(name)
        super().__init__(self._inbound.to_scope(self._session_key))
        return object.__getattribute__(self, name)


class LazyHeaders(Mapping[str, str]):
    """The headers of a shown request, by name in any case, made up once they are looked at."""

    def __init__(self, shown: StarletteRequest) -> None:
        self._shown = shown

    def __getitem__(self, name: str) -> str:
        return self._shown.headers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown.headers)

    def __len__(self) -> int:
        return len(self._shown.headers)
