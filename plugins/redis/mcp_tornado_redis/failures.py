"""What fails in the driver or at the server, as stores tell of it."""

from __future__ import annotations

import re
import ssl
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from mcp_tornado.stores import StoreUnavailable

IS_CLUSTER: Final = "is a Redis Cluster, which this store does not support: a single server or a primary is needed"
"""What a cluster means."""

_ANSWERS: Final[dict[type[Exception], str]] = {
    AuthenticationError: "does not let us in: check the user and the password in the URL of the store",
    BusyLoadingError: "is still loading its data",
    NoPermissionError: "does not allow this to the user of the store: the README says which rights it needs",
    OutOfMemoryError: "is out of memory: raise maxmemory",
    ReadOnlyError: "is a replica, which takes no writes: the URL of the store must name the primary",
    MasterDownError: "is a replica that has lost its primary: the URL of the store must name the primary",
    ClusterDownError: IS_CLUSTER,
    MovedError: IS_CLUSTER,
}
"""What an answer means for which redis-py has a class."""

_CODES: Final = {
    "MISCONF": "cannot write its data to disk, and takes no writes until it can: see its log",
    "NOREPLICAS": "takes no writes, because it has fewer replicas than its configuration demands",
    "BUSY": "is busy with a script that takes long",
}
"""What an answer means, by the word it begins with."""

_NO_MORE_CLIENTS: Final = "max number of clients"
_CODE: Final = re.compile(r"[A-Z]+(?= )")


def unavailable(name: str, error: Exception) -> StoreUnavailable:
    """Return what to raise for an error.

    The driver's and the server's own words are left out: they may hold what was sent.

    Args:
        name: What to call the server.
        error: What the driver or the network raised.
    """
    return StoreUnavailable(f"Redis at {name} {_meaning(error)}")


def _meaning(error: Exception) -> str:
    for kind, meaning in _ANSWERS.items():
        if isinstance(error, kind):
            return meaning
    if isinstance(error, ResponseError):
        code = _CODE.match(str(error))
        return _CODES.get(code[0], f"refused it with {code[0]}") if code else "refused it with an error"
    if _NO_MORE_CLIENTS in str(error):
        return "has as many clients as it takes: raise maxclients"
    if isinstance(error.__context__, ssl.SSLError):
        return (
            "cannot be talked to over TLS: check its certificate, ssl_ca_certs in the URL of the store, and whether "
            "this port speaks TLS"
        )
    return f"does not answer ({type(error).__name__}): is it running, and can it be reached?"
