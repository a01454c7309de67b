"""The verdict: the violations that the proxy's records prove, and how much was tried.

The records alone are judged, from the outside: by the event ids, as the contract describes them, and by the marks that
all payloads carry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from tests.chaos.check_answers import check_addressees, check_answered, check_cancellations, check_replies
from tests.chaos.check_events import check_connections, check_list_changed, check_numbered, check_open_streams
from tests.chaos.check_sessions import check_session_ends, check_session_lives, check_spread, check_state
from tests.chaos.records import Exchange, Outage, Outcome
from tests.chaos.session_records import SessionRecords, sessions_in
from tests.chaos.violations import Row, Violation

_CHECKS: Final[Sequence[Callable[[SessionRecords], Iterator[Violation]]]] = (
    check_session_lives,
    check_session_ends,
    check_state,
    check_connections,
    check_open_streams,
    check_numbered,
    check_list_changed,
    check_answered,
    check_addressees,
    check_replies,
    check_cancellations,
)


def judge(records: Sequence[Exchange], outages: Sequence[Outage] = (), *, processes: int) -> list[Violation]:
    """Return all violations in the records of a run with this number of processes."""
    violations: list[Violation] = []
    for session in sessions_in(records, outages):
        for check in _CHECKS:
            violations.extend(check(session))
        if processes > 1:
            violations.extend(check_spread(session))
    violations.extend(_check_internal_errors(records))
    return violations


def _check_internal_errors(records: Iterable[Exchange]) -> Iterator[Violation]:
    """Check that no answer is an internal error."""
    for exchange in records:
        if (
            exchange.status == 500
            or exchange.error_code == "INTERNAL_ERROR"
            or "INTERNAL_ERROR" in str(exchange.events)
        ):
            yield Violation(Row.INTERNAL, "an internal error", [exchange])


def count_activity(records: Sequence[Exchange]) -> dict[str, int]:
    """Return counts that show how much the run tried; none of them is a violation."""
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
        "events forwarded": sum(len(each.events) for each in records),
        "streams resumed": sum(each.path == "/mcp" for each in resumed),
        "transport errors before any byte": sum(each.status is None for each in broken),
        "streams broken by a process": sum(each.status is not None for each in broken),
        "requests that another process took over": sum(bool(each.skipped_processes) for each in records),
        **dict(sorted(refusals.items())),
    }


def format_table(violations: Sequence[Violation], activity: dict[str, int]) -> str:
    """Return the table of the verdict: first the rows that must be 0, then the activity."""
    found = Counter(violation.row for violation in violations)
    rows = [(row.value, found[row]) for row in Row]
    return "\n".join(f"{name:<44} {number:>8}" for name, number in (*rows, ("", ""), *activity.items()))
