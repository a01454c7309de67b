"""The context that all clients of a run share, and their timeouts."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final

import httpx2

CALL_TIMEOUT_SECONDS: Final = 75.0
"""A client gives up a call after this time; every call should end earlier."""
ANSWER_TIMEOUT_SECONDS: Final = 25.0
"""A client that resumes gets its answer within this time: the documented 10 s, and a reserve for a busy machine."""
RETRY_INTERVAL_SECONDS: Final = 0.3
ACCEPT: Final = {"Accept": "application/json, text/event-stream"}
RETRIED_STATUSES: Final = frozenset({409, 502, 503})


@dataclass
class ClientContext:
    """What all clients of a run share."""

    url: str
    http: httpx2.AsyncHTTPTransport
    pause_seconds: float
    """Mean time between two actions of one client."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the clients are to finish; they do not end their sessions then."""
    observations: Counter[str] = field(default_factory=Counter[str])
    """Counts of what clients observed, in addition to the proxy's records."""
    wrong_results: list[str] = field(default_factory=list[str])
    """Results that clients got and that cannot be right."""

    async def pause(self, random: Random) -> None:
        """Wait between two actions; return early if the clients are to finish."""
        with suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0.2, 1.8) * self.pause_seconds):
                await self.stop.wait()


def describe_error(error: BaseException) -> str:
    """Return the type and the message of an error, or of the first one in a group."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__} {error}"[:100]
