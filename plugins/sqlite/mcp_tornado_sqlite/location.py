"""Which file a URL names."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

_PREFIX: Final = "sqlite:///"
_FORM: Final = "the SQLite store is named sqlite:///relative.db or sqlite:////absolute.db"


def path_of(url: str) -> Path:
    """Return the path in a URL, as SQLAlchemy 2.1 reads it; a relative one is relative to the working directory.

    Percent-encoded characters are decoded. No file is looked at.

    Raises:
        ValueError: The URL names a host, a query, a folder, a database in memory, or no file.
    """
    if not url.startswith(_PREFIX):
        raise ValueError(f"{_FORM}: it has no host, and three slashes before the path")
    encoded = url.removeprefix(_PREFIX)
    if "?" in encoded:
        raise ValueError(f"{_FORM}: it takes no query; in a path, a question mark is written %3F")
    path = unquote(encoded)
    if path == ":memory:":
        raise ValueError("SQLite in memory is no store for sessions: memory:// is")
    if not path or path.endswith("/"):
        raise ValueError(f"{_FORM}: the path of a file is missing")
    if "\0" in path:
        raise ValueError(f"{_FORM}: no path has a NUL character")
    return Path(path)
