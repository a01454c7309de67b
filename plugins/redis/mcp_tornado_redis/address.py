"""The address of a Redis server in the URL of a store, and the arguments of connections to it."""

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

_DEFAULT_ARGUMENTS: Final[dict[str, Any]] = {
    "socket_connect_timeout": 2.0,
    "socket_timeout": 2.5,
    "socket_keepalive": True,
    "max_connections": 16,
}
_FIXED_ARGUMENTS: Final[dict[str, Any]] = {
    "retry": Retry(NoBackoff(), 0),  # `Client` decides which commands may be sent again
    "protocol": 2,  # with 3, redis-py does not check whether the server has closed an idle connection
    "encoding_errors": "surrogatepass",
}
_PARAMETERS: Final = (
    *_DEFAULT_ARGUMENTS,
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
    "its form is redis://user:password@host:port/database?parameter=value, where special characters in the user and "
    "the password are percent-encoded and the database is a number"
)


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of the URL of a store."""

    url: str = field(repr=False)
    name: str
    """Host and port, for messages."""
    database: int
    operation_timeout: float
    """Seconds that an operation may take."""
    response_timeout: float
    """Seconds that the server may take to respond to a command."""
    tls: RedisSSLContext | None = field(repr=False)
    """The TLS context of all connections; `None` without TLS."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return the address in a URL; no connection is made.

        Raises:
            ValueError: The URL cannot be used. The message contains no part of it.
        """
        try:
            parts = urlsplit(url)
            if not _is_well_formed(parts):
                raise ValueError
        except ValueError:
            # The message of urlsplit may quote the URL.
            raise ValueError(f"the URL of the store is not well-formed: {_FORM}") from None
        known = _PARAMETERS + _TLS_PARAMETERS if parts.scheme == "rediss" else _PARAMETERS
        if any(name not in known for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
            raise ValueError(f"the URL of the store has an unknown parameter; known are {', '.join(known)}")
        try:
            pool = _make_pool(url)
            connection = pool.make_connection()
        except (ValueError, TypeError, RedisError):
            raise ValueError("a parameter in the URL of the store has a value that redis-py does not accept") from None
        arguments = pool.connection_kwargs
        timeouts: list[float] = [arguments["socket_connect_timeout"], pool.response_timeout]
        if not all(0 < timeout < math.inf for timeout in timeouts):
            raise ValueError("the timeouts in the URL of the store must be finite numbers of seconds above 0")
        name = parts.netloc.rpartition("@")[2] or "localhost"
        tls = connection.ssl_context if isinstance(connection, SSLConnection) else None
        return cls(url, name, arguments.get("db", 0), sum(timeouts), pool.response_timeout, tls)

    def make_pool(self) -> ConnectionPool:
        """Return a new pool of connections; none of them is open."""
        pool = _make_pool(self.url)
        pool.tls = self.tls
        return pool

    def make_connection(self) -> AbstractConnection:
        """Return a new connection that belongs to no pool; it is not open."""
        return self.make_pool().make_connection()


class _Pool(ConnectionPool):
    """A pool whose connections share one TLS context and have no timeout for responses; the caller sets the timeout.

    With a timeout of its own, redis-py sends through `asyncio.wait_for`, which may lose a cancellation before Python
    3.12. Creating a TLS context blocks the process: if each connection created one, connections that are opened at the
    same time might time out.
    """

    response_timeout: float
    tls: RedisSSLContext | None = None

    def make_connection(self) -> AbstractConnection:
        """Return a new connection; it is not open."""
        connection = super().make_connection()
        if self.tls is not None and isinstance(connection, SSLConnection):
            connection.ssl_context = self.tls
        return connection


def _is_well_formed(parts: SplitResult) -> bool:
    # If a special character in the password is not encoded, urlsplit takes the rest of the password for another part.
    after_host = f"{parts.path}?{parts.query}#{parts.fragment}"
    return (
        "@" not in after_host
        and not parts.fragment
        and (parts.path in ("", "/") or (parts.path[1:].isascii() and parts.path[1:].isdigit()))
        and all("=" in pair for pair in parts.query.split("&") if pair)
        and parts.port != 0
    )


def _make_pool(url: str) -> _Pool:
    defaults = dict(_DEFAULT_ARGUMENTS)
    if urlsplit(url).scheme == "rediss":
        defaults["ssl_check_hostname"] = True  # before 6.0, redis-py does not check the host name by default
    pool = _Pool.from_url(url, **_FIXED_ARGUMENTS, **defaults)  # pyright: ignore[reportUnknownMemberType]
    pool.response_timeout = pool.connection_kwargs["socket_timeout"]
    pool.connection_kwargs["socket_timeout"] = None
    return pool
