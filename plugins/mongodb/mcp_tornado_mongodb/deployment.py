"""The MongoDB deployment in the URL of a store, and the driver that connects to it."""

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
"""The client of the driver. If the driver is Motor, its client has the same methods, as far as they are used here."""

DEFAULT_DATABASE: Final = "mcp_tornado"
DEFAULT_TIMEOUT_SECONDS: Final = 3.0
"""Seconds that an operation may take, with the selection of a server, if the URL has no timeoutMS."""

_DRIVERS: Final = ("pymongo", "motor")
_DEFAULT_OPTIONS: Final[dict[str, Any]] = {
    "w": "majority",
    "journal": True,
    "serverSelectionTimeoutMS": 3000,
    "connectTimeoutMS": 2000,
    "socketTimeoutMS": 4000,
}
_LOGGERS_OF_COMMANDS: Final = ("pymongo.command", "pymongo.client")
_FORM: Final = (
    "its form is mongodb://user:password@host:port/database?option=value, where special characters in the user and the "
    "password are percent-encoded"
)


@dataclass(frozen=True, slots=True)
class Deployment:
    """The parts of the URL of a store, and the option `driver`."""

    url: str = field(repr=False)
    driver: str
    database: str
    hosts: str
    """Hosts and ports, for messages."""
    timeout: float
    """Seconds that an operation may take."""

    @classmethod
    def parse(cls, url: str, driver: str) -> Self:
        """Return the deployment in a URL; no connection is made.

        Raises:
            ValueError: The URL or the driver cannot be used. The message contains no part of the URL.
        """
        if driver not in _DRIVERS:
            raise ValueError(f"the option driver must be one of {', '.join(_DRIVERS)}")
        if driver == "motor":
            _import_motor_client()
        credentials_and_hosts, _, path = url.partition("://")[2].partition("?")[0].partition("/")
        if "@" in path:
            # The password contains a "/" that is not encoded: what looks like the host is a part of the password.
            raise ValueError(f"the URL of the store is not well-formed: {_FORM}")
        parsed = _parse_with_driver(url)
        if not parsed.write_concern.acknowledged:
            raise ValueError(
                "the URL of the store has w=0, with which the server does not acknowledge that a write succeeded"
            )
        return cls(
            url=url,
            driver=driver,
            database=parsed.get_default_database(DEFAULT_DATABASE).name,
            hosts=credentials_and_hosts.rpartition("@")[2],
            timeout=parsed.options.timeout or DEFAULT_TIMEOUT_SECONDS,
        )

    def connect(self) -> Client:
        """Return a new client; it connects when the first operation begins."""
        # At DEBUG, PyMongo logs commands with their content: whole keys, and messages of clients.
        for name in _LOGGERS_OF_COMMANDS:
            logging.getLogger(name).setLevel(logging.INFO)
        make: Any = _import_motor_client() if self.driver == "motor" else AsyncMongoClient
        return cast(Client, make(self.url, **_defaults_for(self.url)))


def _parse_with_driver(url: str) -> Client:
    """Return a client that is used only for the values that it has parsed from the URL; it does not connect."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PyMongo warns of options and values that it ignores
            return AsyncMongoClient[Document](url, **_defaults_for(url))
    except (PyMongoError, ValueError, TypeError, OSError, Warning):
        # The message of PyMongo may quote the URL.
        raise ValueError(
            "the URL of the store is not well-formed, has an option or a value that PyMongo does not know, or names a "
            f"file that cannot be read; {_FORM}"
        ) from None


def _defaults_for(url: str) -> dict[str, Any]:
    """Return the default options that the URL does not set."""
    named = {pair.partition("=")[0].lower() for pair in re.split("[&;]", url.partition("?")[2])}
    return {name: value for name, value in _DEFAULT_OPTIONS.items() if name.lower() not in named}


def _import_motor_client() -> Any:
    try:
        from motor.motor_asyncio import AsyncIOMotorClient
    except ImportError as error:
        raise ValueError(
            'the option driver is "motor", but Motor is not installed: pip install "mcp-tornado-mongodb[motor]"'
        ) from error
    return AsyncIOMotorClient
