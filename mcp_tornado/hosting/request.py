"""The HTTP request behind a message, and the form in which the hosted server sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from starlette.requests import Request as StarletteRequest

SESSION_HEADER: Final = "mcp-session-id"


class HeaderSource(Protocol):
    """The headers of a request, such as Tornado's `HTTPHeaders`."""

    def get_all(self) -> Iterable[tuple[str, str]]:
        """Return pairs of name and value. Names may have any case."""
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
        """The headers, with names in lower case. A name can occur several times."""
        return [(name.lower(), value) for name, value in self.raw_headers.get_all()]

    def to_starlette(self, session_key: str | None) -> StarletteRequest:
        """Return the request as the SDK shows it to tools: a Starlette request.

        A tool never sees the session id. The header holds the session key instead; it is absent if the key is `None`.
        """
        return _LazyStarletteRequest(self, session_key)

    def to_scope(self, session_key: str | None) -> dict[str, Any]:
        """Return the ASGI scope of the request that tools see; see `to_starlette`."""
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


class _LazyStarletteRequest(StarletteRequest):
    """A Starlette request that builds its scope at the first access. Most tools never read the request."""

    def __init__(self, inbound: InboundRequest, session_key: str | None) -> None:
        self._inbound = inbound
        self._session_key = session_key

    def __getattr__(self, name: str) -> Any:
        # Python calls this only for a missing attribute. At first, all attributes of Starlette's __init__ are missing.
        if "scope" in self.__dict__ or name.startswith("__"):
            raise AttributeError(name)
        super().__init__(self._inbound.to_scope(self._session_key))
        return object.__getattribute__(self, name)


class LazyHeaders(Mapping[str, str]):
    """The headers of a Starlette request, by name in any case. They are read from the request at the first access."""

    def __init__(self, http_request: StarletteRequest) -> None:
        self._http_request = http_request

    def __getitem__(self, name: str) -> str:
        return self._http_request.headers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._http_request.headers)

    def __len__(self) -> int:
        return len(self._http_request.headers)
