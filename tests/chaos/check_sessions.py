"""Checks of sessions: none is lost, none is served after its end, and the state holds what was acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from tests.chaos.records import is_success
from tests.chaos.session_records import SessionRecords, mark_of
from tests.chaos.violations import DELIVERY_LIMIT_SECONDS, Row, Violation

_SPREAD_REQUESTS: Final = 30
"""With at least this many requests of a session, one process cannot have got all of them by chance."""


def check_session_lives(session: SessionRecords) -> Iterator[Violation]:
    """Check that every request, and the audit, finds a session that its client did not end."""
    if session.deletions:
        return
    not_found = [each for each in session.exchanges if each.error_code in ("SESSION_NOT_FOUND", "SESSION_EXPIRED")]
    audits = [each for each in session.exchanges if (each.method, each.path) == ("GET", "/mcp/session")]
    if not_found:
        description = f"session {session.id[:8]} was not found"
        yield Violation(Row.SESSIONS_LOST, description, [session.created, *not_found[:3]])
    elif not audits or audits[-1].status != 200:
        description = f"session {session.id[:8]} could not be audited"
        yield Violation(Row.SESSIONS_LOST, description, [session.created, *audits[-1:]])


def check_session_ends(session: SessionRecords) -> Iterator[Violation]:
    """Check that no request succeeds and no connection stays open once the end of the session was acknowledged."""
    deletion = next((each for each in session.deletions if each.status == 204), None)
    if deletion is None or deletion.ended is None:
        return
    for exchange in session.exchanges:
        if exchange.at > deletion.ended and exchange.status is not None and exchange.status < 400:
            description = f"session {session.id[:8]} answered after its end"
            yield Violation(Row.RESURRECTED, description, [deletion, exchange])
        end = exchange.ended or deletion.ended
        open_seconds = session.undisturbed_seconds(exchange.process, deletion.ended, end)
        if exchange.at < deletion.ended and open_seconds > DELIVERY_LIMIT_SECONDS:
            yield Violation(Row.RESURRECTED, "a connection outlived its session", [deletion, exchange])


def check_state(session: SessionRecords) -> Iterator[Violation]:
    """Check that the state holds acknowledged changes once, others at most once, and nothing else."""
    changes = [call for call in session.calls if call.tool == "remember"]
    if session.deletions or not changes:
        return
    reads = [call for call in session.calls if call.tool == "recall" and session.has_succeeded(call)]
    held: list[str] = []
    if reads:
        answer = next(filter(is_success, session.answers(reads[-1])))
        held = " ".join(content["text"] for content in answer["result"]["content"]).split()
    counts = Counter(held)
    for change in changes:
        mark = mark_of(change)
        if mark is None:
            continue
        times = counts.pop(f"{mark.owner}/{mark.call}", 0)
        if times == 0 and session.has_succeeded(change):
            yield Violation(Row.STATE_LOST, f"{mark} is not in the state", [change, *reads[-1:]])
        if times > 1:
            yield Violation(Row.STATE_TWICE, f"{mark} is in the state {times} times", [change, *reads[-1:]])
    for stranger in counts:
        yield Violation(Row.WRONG_SESSION, f"{stranger} is in the state of {session.owner}", reads[-1:])


def check_spread(session: SessionRecords) -> Iterator[Violation]:
    """Check that the proxy sent the requests of a session to several processes; otherwise the suite proves nothing."""
    processes = [exchange.process for exchange in session.exchanges if exchange.process is not None]
    if len(processes) >= _SPREAD_REQUESTS and len(set(processes)) == 1:
        description = f"all {len(processes)} requests of {session.id[:8]} went to process {processes[0]}"
        yield Violation(Row.NOT_SPREAD, description)
