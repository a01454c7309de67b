"""Which Redis a store is on, as its URL says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, RedisSSLContext, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

_WHERE_THE_URL_IS_SILENT: Final[dict[str, Any]] = {
    "socket_connect_timeout": 2.0,
    "socket_timeout": 2.5,
    "socket_keepalive": True,
    "max_connections": 16,
}
_ALWAYS: Final[dict[str, Any]] = {
    "retry": Retry(NoBackoff(), 0),  # what may be sent again is decided where it is known what it does
    "protocol": 2,  # with 3, redis-py no longer looks whether a connection that was idle has been closed
    "encoding_errors": "surrogatepass",
}
_PARAMETERS: Final = (
    *_WHERE_THE_URL_IS_SILENT,
    "db",
    "username",
    "password",
    "client_name",
    "health_check_interval",
)
_TLS_PARAMETERS: Final = (
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_password",
)
_FORM: Final = (
    "it looks like redis://user:password@host:port/database?parameter=value, where special characters in the user "
    "and the password are percent-encoded and the database is a number"
)


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says."""

    url: str = field(repr=False)
    name: str
    """Host and port, for messages."""
    database: int
    limit: float
    """Seconds an operation may take."""
    answer_limit: float
    """Seconds the server may take to answer."""
    tls: RedisSSLContext | None = field(repr=False)
    """What all connections share over TLS."""

    @classmethod
    def of(cls, url: str) -> Self:
        """Return what a URL says, without asking any server.

        Raises:
            ValueError: The URL cannot be used. The message holds nothing of it.
        """
        try:
            parts = urlsplit(url)
            if not _is_well_formed(parts):
                raise ValueError
        except ValueError:
            # What urlsplit says may quote the URL.
            raise ValueError(f"the URL of the store is not well-formed: {_FORM}") from None
        known = _PARAMETERS + _TLS_PARAMETERS if parts.scheme == "rediss" else _PARAMETERS
        if any(name not in known for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
            raise ValueError(f"the URL of the store has a parameter that is none of: {', '.join(known)}")
        try:
            pool = _pool(url)
            connection = pool.make_connection()
        except (ValueError, TypeError, RedisError):
            raise ValueError("a parameter in the URL of the store has a value that redis-py does not take") from None
        arguments = pool.connection_kwargs
        limits: list[float] = [arguments["socket_connect_timeout"], pool.answer_limit]
        if not all(0 < limit < math.inf for limit in limits):
            raise ValueError("the time limits in the URL of the store are seconds, above 0")
        name = parts.netloc.rpartition("@")[2] or "localhost"
        tls = connection.ssl_context if isinstance(connection, SSLConnection) else None
        return cls(url, name, arguments.get("db", 0), sum(limits), pool.answer_limit, tls)

    def pool(self) -> ConnectionPool:
        """Return a new pool of connections; none of them is open."""
        pool = _pool(self.url)
        pool.tls = self.tls
        return pool

    def connection(self) -> AbstractConnection:
        """Return a new connection of its own, not open yet."""
        return self.pool().make_connection()


class _Pool(ConnectionPool):
    """Connections that leave the limit for answers to who uses them, and that have one TLS context for all.

    With a limit of its own, redis-py sends through `asyncio.wait_for`: that may lose a cancellation before Python 3.12.
    And if each connection made its own context, nothing else would go on in the process for so long that those which
    connect at the same time might miss their limit.
    """

    answer_limit: float
    tls: RedisSSLContext | None = None

    def make_connection(self) -> AbstractConnection:
        """Return a new connection, not open yet."""
        connection = super().make_connection()
        if self.tls is not None and isinstance(connection, SSLConnection):
            connection.ssl_context = self.tls
        return connection


def _is_well_formed(parts: SplitResult) -> bool:
    # Where a character of the password should have been encoded, what stands after it is taken for another part.
    after_the_host = f"{parts.path}?{parts.query}#{parts.fragment}"
    return (
        "@" not in after_the_host
        and not parts.fragment
        and (parts.path in ("", "/") or (parts.path[1:].isascii() and parts.path[1:].isdigit()))
        and all("=" in pair for pair in parts.query.split("&") if pair)
        and parts.port != 0
    )


def _pool(url: str) -> _Pool:
    defaults = dict(_WHERE_THE_URL_IS_SILENT)
    if urlsplit(url).scheme == "rediss":
        defaults["ssl_check_hostname"] = True  # until 6.0, redis-py did not look unless it was asked to
    pool = _Pool.from_url(url, **_ALWAYS, **defaults)  # pyright: ignore[reportUnknownMemberType]
    pool.answer_limit = pool.connection_kwargs["socket_timeout"]
    pool.connection_kwargs["socket_timeout"] = None
    return pool
