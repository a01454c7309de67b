"""JSON to bytes and back."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

import orjson

MAX_INTEGER_DIGITS: Final = 4300
"""Largest integer that is read, in decimal digits: the default limit of Python."""

_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_INEXACT_UNSIGNED: Final = b"0" * 20
_INEXACT_NEGATIVE: Final = b"-" + b"0" * 19
_SHORT: Final = b"0" * 18
_LONG_RUN: Final = re.compile(_SHORT + b"0+")
"""A run of more than 18 digits, in text whose digits are all zeros."""

_EXACT_PREFIX: Final = b" "
"""Marks bytes that only Python's own parser reads back exactly: orjson would make large integers inexact."""


class NumberOutOfRange(ValueError):
    """A number in JSON text is too large; the message says which and what the limit is."""


def shorten_numbers(data: bytes) -> bytes | None:
    """Return JSON text with every run of digits cut to 18 digits; `None` if orjson reads every integer in it exactly.

    orjson reads an integer of more than 64 bits as a float, or refuses it. Apart from that it reads the shortened text
    as the original one: it finds the same faults, and values of the same shape.
    """
    digits = data.translate(_AS_ZEROS)
    if _INEXACT_UNSIGNED not in digits and _INEXACT_NEGATIVE not in digits:
        return None
    pieces: list[bytes] = []
    end = 0
    for run in _LONG_RUN.finditer(digits):
        pieces.append(data[end : run.start() + len(_SHORT)])
        end = run.end()
    pieces.append(data[end:])
    return b"".join(pieces)


def decode_exactly(data: bytes) -> Any:
    """Return the value of valid JSON text, with exact integers. This takes several times as long as orjson.

    Raises:
        NumberOutOfRange: An integer has more than `MAX_INTEGER_DIGITS` digits, or a float is infinite.
    """
    return json.loads(data.decode(), parse_int=_to_integer, parse_float=_to_float)


def _to_integer(text: str) -> int:
    if len(text.removeprefix("-")) > MAX_INTEGER_DIGITS:
        raise NumberOutOfRange(f"an integer has more than {MAX_INTEGER_DIGITS} digits")
    return int(text)


def _to_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NumberOutOfRange("a number is too large for a float")
    return value


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
