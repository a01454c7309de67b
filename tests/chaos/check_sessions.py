"""Sessions: none is lost, none comes back, and their state is what was acknowledged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from tests.chaos.evidence import SessionRecords, call_of
from tests.chaos.faults import LIVE_LIMIT, Fault, Row
from tests.chaos.records import succeeded

SPREAD_FROM: Final = 30
"""So many requests of one session cannot all have gone to one process by chance."""


def check_session_lives(session: SessionRecords) -> Iterator[Fault]:
    """A session that nobody ended is found by every request, and by the audit."""
    if session.deletions:
        return
    gone = [each for each in session.exchanges if each.error_code in ("SESSION_NOT_FOUND", "SESSION_EXPIRED")]
    looks = [each for each in session.exchanges if (each.method, each.path) == ("GET", "/mcp/session")]
    if gone:
        yield Fault(Row.SESSIONS_LOST, f"session {session.id[:8]} was not found", [session.created, *gone[:3]])
    elif not looks or looks[-1].status != 200:
        yield Fault(Row.SESSIONS_LOST, f"session {session.id[:8]} could not be audited", [session.created, *looks[-1:]])


def check_session_ends(session: SessionRecords) -> Iterator[Fault]:
    """Once its end was acknowledged, nothing works in a session any more, and nothing goes on."""
    deletion = next((each for each in session.deletions if each.status == 204), None)
    if deletion is None or deletion.ended is None:
        return
    for exchange in session.exchanges:
        if exchange.at > deletion.ended and exchange.status is not None and exchange.status < 400:
            yield Fault(Row.RESURRECTED, f"session {session.id[:8]} answered after its end", [deletion, exchange])
        end = exchange.ended or deletion.ended
        if exchange.at < deletion.ended and session.undisturbed(exchange.process, deletion.ended, end) > LIVE_LIMIT:
            yield Fault(Row.RESURRECTED, "a connection outlived its session", [deletion, exchange])


def check_state(session: SessionRecords) -> Iterator[Fault]:
    """What was acknowledged is in the state, once; what was not may be there, once; nothing else is."""
    changes = [call for call in session.calls if call.tool == "remember"]
    if session.deletions or not changes:
        return
    looks = [call for call in session.calls if call.tool == "recall" and session.succeeded(call)]
    held: list[str] = []
    if looks:
        answer = next(filter(succeeded, session.answers(looks[-1])))
        held = " ".join(content["text"] for content in answer["result"]["content"]).split()
    counts = Counter(held)
    for change in changes:
        mark = call_of(change)
        if mark is None:
            continue
        times = counts.pop(f"{mark.owner}/{mark.call}", 0)
        if times == 0 and session.succeeded(change):
            yield Fault(Row.STATE_LOST, f"{mark} is not in the state", [change, *looks[-1:]])
        if times > 1:
            yield Fault(Row.STATE_TWICE, f"{mark} is in the state {times} times", [change, *looks[-1:]])
    for stranger in counts:
        yield Fault(Row.WRONG_SESSION, f"{stranger} is in the state of {session.owner}", looks[-1:])


def check_spread(session: SessionRecords) -> Iterator[Fault]:
    """The proxy sends the requests of a session to several processes: else the suite shows nothing."""
    processes = [exchange.process for exchange in session.exchanges if exchange.process is not None]
    if len(processes) >= SPREAD_FROM and len(set(processes)) == 1:
        yield Fault(Row.NOT_SPREAD, f"all {len(processes)} requests of {session.id[:8]} went to {processes[0]}")
