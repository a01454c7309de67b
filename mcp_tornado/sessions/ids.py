"""Session ids, and the keys that replace them everywhere except in HTTP."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets

_ID_BYTES = 32
_WELL_FORMED = re.compile(r"[\x21-\x7E]{1,128}")
_SHORT_KEY_LENGTH = 8


def new_session_id() -> str:
    """Return a new id: 32 bytes from the operating system's CSPRNG as 43 characters of base64url."""
    return secrets.token_urlsafe(_ID_BYTES)


def is_well_formed(session_id: str) -> bool:
    """Return whether an id has the form that MCP allows: 1 to 128 visible ASCII characters (0x21-0x7E)."""
    return _WELL_FORMED.fullmatch(session_id) is not None


def session_key(session_id: str) -> str:
    """Return the store's key for an id: its SHA-256 as base64url without padding, 43 characters.

    The id cannot be computed from the key, so a dump of the store gives access to no session.
    """
    return _key_of(session_id.encode("ascii"))


def named_key(name: str) -> str:
    """Return the store's key for a named record (see `mcp_tornado.sessions.named_records`).

    The hashed text begins with a space, and so is no well-formed id: no client can ask for this key.
    """
    return _key_of(b" " + name.encode("utf-8", "surrogatepass"))


def _key_of(text: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode("ascii")


def short_key(key: str) -> str:
    """Return the first 8 characters of a key: the part that logs, listings and errors may show."""
    return key[:_SHORT_KEY_LENGTH]


def is_process_key(key: str) -> bool:
    """Return whether a key is that of a log of the processes, and not that of a session; see `EventLog`."""
    return key.startswith("@")
