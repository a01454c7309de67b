"""The path of the database file in the URL of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

_PREFIX: Final = "sqlite:///"
_FORM: Final = "the URL of an SQLite store is sqlite:///relative.db or sqlite:////absolute.db"


def parse_url(url: str) -> Path:
    """Return the path in a URL, as SQLAlchemy 2.1 reads it; a relative one is relative to the working directory.

    Percent-encoded characters are decoded. The file system is not accessed.

    Raises:
        ValueError: The URL names a host, a query, a folder, an in-memory database, or no file.
    """
    if not url.startswith(_PREFIX):
        raise ValueError(f"{_FORM}: it has no host, and three slashes stand before the path")
    encoded = url.removeprefix(_PREFIX)
    if "?" in encoded:
        raise ValueError(f"{_FORM}: it has no query; write a question mark in a path as %3F")
    path = unquote(encoded)
    if path == ":memory:":
        raise ValueError("an in-memory SQLite database cannot store sessions: use memory://")
    if not path or path.endswith("/"):
        raise ValueError(f"{_FORM}: the path of a file is missing")
    if "\0" in path:
        raise ValueError(f"{_FORM}: a path cannot contain a NUL character")
    return Path(path)
