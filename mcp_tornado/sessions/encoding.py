"""JSON as bytes, and back."""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

_EXACT: Final = b" "
"""Begins what only Python's own parser reads back as it was: orjson would make large numbers inexact."""


def encode(value: Any) -> bytes:
    """Return a JSON value as bytes.

    Raises:
        TypeError, ValueError: It holds something that JSON does not have, or is nested too deeply.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        # Whole numbers above 64 bits and lone surrogates are JSON too, but not to orjson.
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def encode_stored(value: Any) -> bytes:
    """Return a JSON value as bytes that `decode_stored` reads back exactly, and that are good to keep.

    Raises:
        TypeError, ValueError: See `encode`.
    """
    try:
        # A copy: orjson hands out its working buffer, which holds 4 KiB however short the text is.
        return bytes(memoryview(orjson.dumps(value)))
    except TypeError:
        return _EXACT + encode(value)


def decode_stored(data: bytes) -> Any:
    """Return the value that `encode_stored` was given."""
    return json.loads(data) if data.startswith(_EXACT) else orjson.loads(data)
