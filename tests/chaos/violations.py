"""The guarantees that the suite checks, and violations of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.chaos.records import Exchange

DELIVERY_LIMIT_SECONDS: Final = 8.0
"""Undisturbed time within which an event of one process reaches a waiting reader at another process."""


class Row(StrEnum):
    """A row of the verdict: a kind of violation."""

    SESSIONS_LOST = "sessions lost"
    STATE_LOST = "acknowledged state changes lost"
    EVENTS_LOST = "events lost"
    EVENTS_TWICE = "events delivered twice"
    UNANSWERED = "requests without any answer"
    WRONG_SESSION = "answers delivered to the wrong session"
    OUT_OF_ORDER = "events out of order"
    ANSWERED_TWICE = "requests answered twice"
    REPLIES_LOST = "acknowledged replies of clients lost"
    CANCELLATIONS_LOST = "acknowledged cancellations lost"
    STATE_TWICE = "state changes made twice"
    RESURRECTED = "ended sessions that were served again"
    INTERNAL = "internal errors"
    NOT_SPREAD = "sessions served by one process only"


@dataclass(frozen=True, slots=True)
class Violation:
    """A guarantee that was broken, and the records that prove it."""

    row: Row
    description: str
    evidence: Sequence[Exchange] = ()
