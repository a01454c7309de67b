"""The verdict: what the proxy's records show that went wrong, and how much was tried.

Everything is judged by the records alone, from the outside: by ids of events, as the contract describes them, and by
the marks that all payloads carry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from tests.chaos.check_answers import check_answered, check_cancellations, check_replies, check_whose
from tests.chaos.check_events import check_connections, check_list_changed, check_numbered, check_open_streams
from tests.chaos.check_sessions import check_session_ends, check_session_lives, check_spread, check_state
from tests.chaos.evidence import SessionRecords, sessions_in
from tests.chaos.faults import Fault, Row
from tests.chaos.records import Exchange, Outcome, Pause

_CHECKS: Final[Sequence[Callable[[SessionRecords], Iterator[Fault]]]] = (
    check_session_lives,
    check_session_ends,
    check_state,
    check_connections,
    check_open_streams,
    check_numbered,
    check_list_changed,
    check_answered,
    check_whose,
    check_replies,
    check_cancellations,
)


def judge(records: Sequence[Exchange], pauses: Sequence[Pause] = (), *, processes: int) -> list[Fault]:
    """Return everything that went wrong."""
    faults: list[Fault] = []
    for session in sessions_in(records, pauses):
        for check in _CHECKS:
            faults.extend(check(session))
        if processes > 1:
            faults.extend(check_spread(session))
    faults.extend(check_internal_errors(records))
    return faults


def check_internal_errors(records: Iterable[Exchange]) -> Iterator[Fault]:
    """No request fails for a reason that nobody foresaw."""
    for exchange in records:
        if (
            exchange.status == 500
            or exchange.error_code == "INTERNAL_ERROR"
            or "INTERNAL_ERROR" in str(exchange.events)
        ):
            yield Fault(Row.INTERNAL, "an internal error", [exchange])


def counts(records: Sequence[Exchange]) -> dict[str, int]:
    """Count what is no fault, but tells how much was tried."""
    sessions = sessions_in(records)
    broken = [each for each in records if each.outcome is Outcome.BROKEN]
    resumed = [each for each in records if each.after is not None and each.method == "GET" and not each.replay]
    refusals = Counter(f"answers {each.status} {each.error_code}" for each in records if (each.status or 0) >= 400)
    several = [each for each in sessions if len({other.process for other in each.exchanges} - {None}) > 1]
    by_process = Counter(each.process for each in records if each.process is not None)
    return {
        "requests": len(records),
        **{f"requests at process {process}": by_process[process] for process in sorted(by_process)},
        "sessions": len(sessions),
        "sessions served by several processes": len(several),
        "tool calls": sum(each.tool is not None for each in records),
        "events passed": sum(len(each.events) for each in records),
        "streams resumed": sum(each.path == "/mcp" for each in resumed),
        "transport errors before any byte": sum(each.status is None for each in broken),
        "streams broken by a process": sum(each.status is not None for each in broken),
        "requests that another process took over": sum(bool(each.passed_over) for each in records),
        **dict(sorted(refusals.items())),
    }


def report(faults: Sequence[Fault], numbers: dict[str, int]) -> str:
    """Return the table: what must be 0 first."""
    found = Counter(fault.row for fault in faults)
    rows = [(row.value, found[row]) for row in Row]
    return "\n".join(f"{name:<44} {number:>8}" for name, number in (*rows, ("", ""), *numbers.items()))
