"""JSON as bytes."""

from __future__ import annotations

import json
from typing import Any

import orjson


def encode(value: Any) -> bytes:
    """Return a JSON value as bytes.

    Raises:
        TypeError, ValueError: It holds something that JSON does not have.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        # Whole numbers above 64 bits and lone surrogates are JSON too, but not to orjson.
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
