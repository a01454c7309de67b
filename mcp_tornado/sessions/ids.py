"""Session ids, and the keys that stand for them everywhere but on the wire."""

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
    """Say whether a client's id has the form MCP allows: 1 to 128 visible ASCII characters (0x21-0x7E)."""
    return _WELL_FORMED.fullmatch(session_id) is not None


def session_key(session_id: str) -> str:
    """Return the store's key of an id: its SHA-256 as base64url without padding, 43 characters.

    The key cannot be turned back into the id, so a dump of the store logs nobody in.
    """
    return _key_of(session_id.encode("ascii"))


def named_key(name: str) -> str:
    """Return the store's key of what a server keeps under a name of its own choice.

    No id has it, so no client can ask for it: what is hashed begins with a space, and is no well-formed id.
    """
    return _key_of(b" " + name.encode("utf-8", "surrogatepass"))


def _key_of(text: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode("ascii")


def short_key(key: str) -> str:
    """Return what logs, listings and errors may show of a key: its first 8 characters."""
    return key[:_SHORT_KEY_LENGTH]


def is_process_key(key: str) -> bool:
    """Say whether a key belongs to a process, for its mailbox or its heartbeat, and not to a session."""
    return key.startswith("@")
