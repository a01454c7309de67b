"""Which MongoDB a store is on, as its URL says, and with which driver it is reached."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

Document = dict[str, Any]
Client = AsyncMongoClient[Document]
"""The driver's client. Motor's, where that is the driver, has the methods that are used here too."""

DEFAULT_DATABASE: Final = "mcp_tornado"
OPERATION_LIMIT: Final = 3.0
"""Seconds an operation may take where the URL has no timeoutMS; it counts for choosing a server as well."""

_DRIVERS: Final = ("pymongo", "motor")
_WHERE_THE_URL_IS_SILENT: Final[dict[str, Any]] = {
    "w": "majority",
    "journal": True,
    "serverSelectionTimeoutMS": 3000,
    "connectTimeoutMS": 2000,
    "socketTimeoutMS": 4000,
}
_TELLING_LOGGERS: Final = ("pymongo.command", "pymongo.client")
_FORM: Final = (
    "it looks like mongodb://user:password@host:port/database?option=value, where special characters in the user "
    "and the password are percent-encoded"
)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a URL and the option `driver` say."""

    url: str = field(repr=False)
    driver: str
    database: str
    hosts: str
    """Hosts and ports, for messages."""
    limit: float
    """Seconds an operation may take."""

    @classmethod
    def of(cls, url: str, driver: str) -> Self:
        """Return what a URL says, without asking any server.

        Raises:
            ValueError: The URL or the driver cannot be used. The message holds nothing of the URL.
        """
        if driver not in _DRIVERS:
            raise ValueError(f"the option driver is one of {', '.join(_DRIVERS)}")
        if driver == "motor":
            _motor_client()
        credentials_and_hosts, _, path = url.partition("://")[2].partition("?")[0].partition("/")
        if "@" in path:
            # A "/" in the password that is not encoded: what looks like the host is part of the password.
            raise ValueError(f"the URL of the store is not well-formed: {_FORM}")
        parsed = _parsed(url)
        if not parsed.write_concern.acknowledged:
            raise ValueError("the URL of the store has w=0, with which no write is known to have been made")
        return cls(
            url=url,
            driver=driver,
            database=parsed.get_default_database(DEFAULT_DATABASE).name,
            hosts=credentials_and_hosts.rpartition("@")[2],
            limit=parsed.options.timeout or OPERATION_LIMIT,
        )

    def connect(self) -> Client:
        """Return a new client; it connects with the first operation."""
        # At DEBUG, PyMongo logs commands with all that they hold: whole keys, and what clients said.
        for name in _TELLING_LOGGERS:
            logging.getLogger(name).setLevel(logging.INFO)
        make: Any = _motor_client() if self.driver == "motor" else AsyncMongoClient
        return cast(Client, make(self.url, **_defaults(self.url)))


def _parsed(url: str) -> Client:
    """Return a client that is never used: it knows what the URL says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # so PyMongo tells of options and values that it would ignore
            return AsyncMongoClient[Document](url, **_defaults(url))
    except (PyMongoError, ValueError, TypeError, OSError, Warning):
        # What PyMongo says may quote the URL.
        raise ValueError(
            "the URL of the store is not well-formed, has an option or a value that PyMongo does not know, or names a "
            f"file that cannot be read; {_FORM}"
        ) from None


def _defaults(url: str) -> dict[str, Any]:
    named = {pair.partition("=")[0].lower() for pair in re.split("[&;]", url.partition("?")[2])}
    return {name: value for name, value in _WHERE_THE_URL_IS_SILENT.items() if name.lower() not in named}


def _motor_client() -> Any:
    try:
        from motor.motor_asyncio import AsyncIOMotorClient
    except ImportError as error:
        raise ValueError(
            'the option driver is "motor", but Motor is not installed: pip install "mcp-tornado-mongodb[motor]"'
        ) from error
    return AsyncIOMotorClient
