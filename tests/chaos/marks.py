"""Marks: every payload carries one, which names its owner and its call.

The owner is that of the session. If a call sends several messages, the mark numbers them:
`~0a1b2c3d.9f8e7d6c` and `~0a1b2c3d.9f8e7d6c.3/10`. The served tools append the number to the mark that they were given.
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
    """The owner and the call of a payload, and its index among `count` numbered messages; `None`: not numbered."""

    owner: str
    call: str
    index: int | None = None
    count: int | None = None

    def __str__(self) -> str:
        return f"~{self.owner}.{self.call}"


def new_name(random: Random) -> str:
    """Return a new name for an owner or a call."""
    return f"{random.getrandbits(32):08x}"


def find_marks(value: object) -> list[Mark]:
    """Return the marks at any place of a JSON value, in order and without duplicates."""
    found = _PATTERN.findall(orjson.dumps(value).decode())
    return list(
        dict.fromkeys(
            Mark(owner, call, int(index) if index else None, int(count) if count else None)
            for owner, call, index, count in found
        )
    )
