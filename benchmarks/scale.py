"""How much is measured: a full run, or a quick look."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The sizes of one run of the benchmarks."""

    idle_sessions: int
    """Sessions whose memory is measured."""
    expired_sessions: int
    """Sessions that one cleanup removes."""
    few_sessions: int
    many_sessions: int
    """The two sizes of store that `validate` is timed at."""
    validate_rounds: int
    store_sessions: tuple[int, int]
    """The two sizes that each store is measured at."""
    store_rounds: int
    call_rounds: int
    call_seconds: float
    """How long a round of calls takes, for each server."""
    connections: int = 16
    """Connections of the load generator, each with a session of its own."""


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
)
