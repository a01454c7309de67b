"""Marks: what every payload carries, so that it can be told whose it is and which one it is.

A mark names the session's owner and the call; where a call says several things, it also numbers them:
`~0a1b2c3d.9f8e7d6c` and `~0a1b2c3d.9f8e7d6c.3/10`. The served tools append the number to the mark they were given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Final

import orjson

_PATTERN: Final = re.compile(r"~([0-9a-f]{8})\.([0-9a-f]{8})(?:\.(\d+)/(\d+))?")


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose a payload is, which call's, and which one of several; `index` is `None` where it is not numbered."""

    owner: str
    call: str
    index: int | None = None
    count: int | None = None

    def __str__(self) -> str:
        return f"~{self.owner}.{self.call}"


def new_name(random: Random) -> str:
    """Return a new name for an owner or a call."""
    return f"{random.getrandbits(32):08x}"


def marks_in(value: object) -> list[Mark]:
    """Return the marks that a JSON value holds anywhere, in order and each once."""
    found = _PATTERN.findall(orjson.dumps(value).decode())
    return list(
        dict.fromkeys(
            Mark(owner, call, int(index) if index else None, int(count) if count else None)
            for owner, call, index, count in found
        )
    )
