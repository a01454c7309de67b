"""Waiting for a condition, with a deadline and a message that names the condition."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

T = TypeVar("T")

DEADLINE_SECONDS: Final = 30.0
"""How long a test waits for anything. It is generous for busy machines; no test asserts on it."""

_POLL_SECONDS: Final = 0.02


async def wait_until(condition: Callable[[], Awaitable[T]], description: str) -> T:
    """Poll an asynchronous condition until its value is true, and return the value.

    Args:
        condition: Returns the value.
        description: What the condition states, such as "the port is free".
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"{description}: not true within {DEADLINE_SECONDS:g} s"
        await anyio.sleep(_POLL_SECONDS)
    return value


def block_until(condition: Callable[[], bool], description: str) -> None:
    """Poll a condition until it is true, and block the thread meanwhile."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{description}: not true within {DEADLINE_SECONDS:g} s"
        time.sleep(_POLL_SECONDS)
