"""Errors of the driver and of the server as `StoreUnavailable`, with what the operator can do."""

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

_MEANING_BY_CLASS: Final[dict[type[Exception], str]] = {
    AuthenticationError: "refuses the login: check the user and the password in the URL of the store",
    BusyLoadingError: "is still loading its data",
    NoPermissionError: "does not permit this to the user of the store: the README lists the rights that it needs",
    OutOfMemoryError: "is out of memory: raise maxmemory",
    ReadOnlyError: "is a replica, which accepts no writes: the URL of the store must name the primary",
    ClusterDownError: _IS_CLUSTER,
    MovedError: _IS_CLUSTER,
}
"""The meaning of an error reply for which redis-py has a class."""

_MEANING_BY_TEXT: Final = {
    "Link with MASTER is down": "is a replica that has lost its primary: the URL of the store must name the primary",
    "MISCONF": "cannot write its data to disk, and accepts no writes until it can: see its log",
    "NOREPLICAS": "accepts no writes, because it has fewer replicas than its configuration demands",
    "BUSY": "is busy with a script that takes long",
    "Script attempted to access": _IS_CLUSTER,
    "Attempted to access": _IS_CLUSTER,
    "the cluster is down": _IS_CLUSTER,
    "DB index is out of range": "has no database with the number in the URL of the store",
}
"""The meaning of an error reply by its text, if redis-py, or an older redis-py, has no class for it."""

_CODE: Final = re.compile(r"[A-Z]+(?= )")
_TLS_ERRORS: Final = (ssl.SSLError, FileNotFoundError, PermissionError)
"""Errors that redis-py meets only when it connects over TLS; the last two concern the files that the URL names."""


def translate_error(name: str, error: Exception) -> StoreUnavailable:
    """Return the `StoreUnavailable` to raise for an error.

    The texts of the driver and of the server are left out, because they may quote what was sent.

    Args:
        name: The name of the server in messages.
        error: The error of the driver or of the network.
    """
    return StoreUnavailable(f"Redis at {name} {_describe(error)}")


def _describe(error: Exception) -> str:
    text = str(error)
    for part, meaning in _MEANING_BY_TEXT.items():
        if part in text:
            return meaning
    for kind, meaning in _MEANING_BY_CLASS.items():
        if isinstance(error, kind):
            return meaning
    if isinstance(error, ResponseError):
        code = _CODE.match(text)
        return f"refused the command with the error {code[0] if code else 'ERR'}"
    if isinstance(error.__context__, _TLS_ERRORS):
        return (
            "cannot be reached over TLS: check its certificate, ssl_ca_certs in the URL of the store, and whether this "
            "port speaks TLS"
        )
    return f"does not answer ({type(error).__name__}): is it running, and can it be reached?"
