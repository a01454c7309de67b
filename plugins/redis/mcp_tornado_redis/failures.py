"""What fails in the driver or at the server, as stores tell of it."""

from __future__ import annotations

import re
import ssl
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from mcp_tornado.stores import StoreUnavailable

_IS_CLUSTER: Final = "is a Redis Cluster, which this store does not support"

_ANSWERS: Final[dict[type[Exception], str]] = {
    AuthenticationError: "does not let us in: check the user and the password in the URL of the store",
    BusyLoadingError: "is still loading its data",
    NoPermissionError: "does not allow this to the user of the store: the README says which rights it needs",
    OutOfMemoryError: "is out of memory: raise maxmemory",
    ReadOnlyError: "is a replica, which takes no writes: the URL of the store must name the primary",
    ClusterDownError: _IS_CLUSTER,
    MovedError: _IS_CLUSTER,
}
"""What an answer means for which redis-py has a class."""

_WORDS: Final = {
    "Link with MASTER is down": "is a replica that has lost its primary: the URL of the store must name the primary",
    "MISCONF": "cannot write its data to disk, and takes no writes until it can: see its log",
    "NOREPLICAS": "takes no writes, because it has fewer replicas than its configuration demands",
    "BUSY": "is busy with a script that takes long",
    "Script attempted to access": _IS_CLUSTER,
    "Attempted to access": _IS_CLUSTER,
    "the cluster is down": _IS_CLUSTER,
    "DB index is out of range": "has no database with the number in the URL of the store",
}
"""What an answer means by its words, where redis-py, or an older one, has no class for it."""

_CODE: Final = re.compile(r"[A-Z]+(?= )")
_TLS_ERRORS: Final = (ssl.SSLError, FileNotFoundError, PermissionError)
"""What redis-py meets on the way to a server over TLS alone: the last two with files that the URL names."""


def unavailable(name: str, error: Exception) -> StoreUnavailable:
    """Return what to raise for an error.

    The driver's and the server's own words are left out: they may hold what was sent.

    Args:
        name: What to call the server.
        error: What the driver or the network raised.
    """
    return StoreUnavailable(f"Redis at {name} {_meaning(error)}")


def _meaning(error: Exception) -> str:
    text = str(error)
    for words, meaning in _WORDS.items():
        if words in text:
            return meaning
    for kind, meaning in _ANSWERS.items():
        if isinstance(error, kind):
            return meaning
    if isinstance(error, ResponseError):
        code = _CODE.match(text)
        return f"refused what was asked with the error {code[0] if code else 'ERR'}"
    if isinstance(error.__context__, _TLS_ERRORS):
        return (
            "cannot be talked to over TLS: check its certificate, ssl_ca_certs in the URL of the store, and whether "
            "this port speaks TLS"
        )
    return f"does not answer ({type(error).__name__}): is it running, and can it be reached?"
