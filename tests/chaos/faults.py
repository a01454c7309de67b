"""What must not happen, and that it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.chaos.records import Exchange

LIVE_LIMIT: Final = 8.0
"""Undisturbed seconds in which what happens elsewhere reaches whoever waits for it."""


class Row(StrEnum):
    """What must not happen."""

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
    RESURRECTED = "ended sessions that came back"
    INTERNAL = "internal errors"
    NOT_SPREAD = "sessions that one process served alone"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that must not happen, and the records that show it."""

    row: Row
    what: str
    shown_by: Sequence[Exchange] = ()
