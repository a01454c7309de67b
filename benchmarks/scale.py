"""The sizes of a full run and of a quick run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The sizes of one run of the benchmarks."""

    idle_sessions: int
    """Number of sessions whose memory is measured."""
    expired_sessions: int
    """Number of sessions that one cleanup removes."""
    few_sessions: int
    many_sessions: int
    """The two numbers of sessions with which `validate` is measured."""
    validate_rounds: int
    store_sessions: tuple[int, int]
    """The two numbers of sessions with which each store is measured."""
    store_rounds: int
    call_rounds: int
    call_seconds: float
    """Seconds that a round of calls takes, for each server."""
    process_rounds: int
    silent_calls: int
    asking_calls: int
    """Number of calls of each kind in a round; the client makes one after the other."""
    wakeup_rounds: int
    wakeup_events: int
    """Number of events that are followed in a round, for each store and for each of the two appending processes."""
    connections: int = 16
    """Number of connections of the load generator, each with a session of its own."""


FULL = Scale(
    idle_sessions=100_000,
    expired_sessions=1_000_000,
    few_sessions=1_000,
    many_sessions=1_000_000,
    validate_rounds=300,
    store_sessions=(10, 100_000),
    store_rounds=30,
    call_rounds=5,
    call_seconds=3.0,
    process_rounds=7,
    silent_calls=200,
    asking_calls=30,
    wakeup_rounds=4,
    wakeup_events=50,
)
QUICK = Scale(
    idle_sessions=20_000,
    expired_sessions=50_000,
    few_sessions=1_000,
    many_sessions=50_000,
    validate_rounds=100,
    store_sessions=(10, 1_000),
    store_rounds=20,
    call_rounds=3,
    call_seconds=0.7,
    process_rounds=3,
    silent_calls=100,
    asking_calls=10,
    wakeup_rounds=2,
    wakeup_events=20,
)
