"""JSON to bytes and back."""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

_EXACT_PREFIX: Final = b" "
"""Marks bytes that only Python's own parser reads back exactly: orjson would make large integers inexact."""


def encode(value: Any) -> bytes:
    """Return a JSON value as bytes.

    Raises:
        TypeError, ValueError: The value holds something that JSON cannot represent, or is nested too deeply.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        # JSON allows integers of more than 64 bits and lone surrogates; orjson refuses them.
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def encode_stored(value: Any) -> bytes:
    """Return a JSON value as bytes that `decode_stored` reads back exactly.

    The bytes take no more memory than they need.

    Raises:
        TypeError, ValueError: See `encode`.
    """
    try:
        # Copy: orjson returns its working buffer, which takes at least 4 KiB.
        return bytes(memoryview(orjson.dumps(value)))
    except TypeError:
        return _EXACT_PREFIX + encode(value)


def decode_stored(data: bytes) -> Any:
    """Return the value that `encode_stored` encoded."""
    return json.loads(data) if data.startswith(_EXACT_PREFIX) else orjson.loads(data)
