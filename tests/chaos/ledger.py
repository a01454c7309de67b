"""The verdict: what the proxy's records show of sessions, state, events and answers that went wrong.

Everything is judged by the records alone, from the outside: by ids of events, as the contract describes them, and by
the marks that all payloads carry.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final

from mcp_tornado.kernel.streams import STANDALONE, is_received
from mcp_tornado.sessions import EventId
from mcp_tornado.sessions.ids import session_key
from tests.chaos.marks import Mark, marks_in
from tests.chaos.records import Exchange, Message, Outcome, Passed, is_response, succeeded

SILENCE_LIMIT: Final = 45.0
"""Seconds without a byte of an answer after which a request counts as never answered; no process is stopped so long."""
REPLY_LIMIT: Final = 20.0
"""Seconds in which an acknowledged reply must have reached who waits for it; no process is stopped so long."""
LIVE_LIMIT: Final = 20.0
"""Seconds in which what happens elsewhere reaches an open connection: a message, the session's end."""
CANCEL_LIMIT: Final = 5.0
"""A cancellation that comes within so many seconds is early for a call of `LONG_CALL` seconds."""
LONG_CALL: Final = 25.0
_SPREAD_FROM: Final = 30
"""So many requests of one session cannot all have gone to one process by chance."""


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


@dataclass(frozen=True, slots=True)
class Seen:
    """An event of a session, as its id and its message tell."""

    id: str
    number: int
    stream: str
    message: Message | None


@dataclass
class SessionRecords:
    """All that was recorded of one session whose creation was acknowledged."""

    id: str
    created: Exchange
    exchanges: list[Exchange] = field(default_factory=list[Exchange])

    @cached_property
    def owner(self) -> str | None:
        """The owner that the client's own messages name; they are all of one client."""
        for exchange in (self.created, *self.exchanges):
            if exchange.method == "POST" and (marks := marks_in(exchange.message)):
                return marks[0].owner
        return None

    @cached_property
    def deletions(self) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.method == "DELETE"]

    @cached_property
    def events(self) -> dict[int, Seen]:
        """Every logged event that anybody has seen, by its number."""
        found: dict[int, Seen] = {}
        for exchange in self.exchanges:
            for event in exchange.events:
                seen = seen_event(event)
                if seen is not None:
                    found.setdefault(seen.number, seen)
        return found

    @cached_property
    def calls(self) -> list[Exchange]:
        """The requests that are owed an answer, each once."""
        return [exchange for exchange in self.exchanges if exchange.is_call]

    def answers(self, call: Exchange) -> list[Message]:
        """Return the answers to a call, wherever they were seen; each event once."""
        if is_response(call.body) and call.path != "/mcp/send":
            return [call.body]
        if call.path == "/mcp/send":
            logged = (seen for seen in self.events.values() if is_received(seen.stream) and seen.stream != STANDALONE)
            answers = [seen.message for seen in logged if is_response(seen.message)]
            return [message for message in answers if message is not None and message.get("id") == call.rpc_id]
        stream = stream_of(call)
        logged = (seen.message for seen in self.events.values() if seen.stream == stream)
        unlogged = (event.message for event in call.events if event.id is None)
        return [message for message in (*logged, *unlogged) if message is not None and is_response(message)]

    def succeeded(self, call: Exchange) -> bool:
        """Say whether somebody was told that a call succeeded."""
        return any(succeeded(answer) for answer in self.answers(call))


def seen_event(event: Passed) -> Seen | None:
    """Return what the id of an event tells; `None` where it has none."""
    parsed = EventId.parse(event.id) if event.id is not None else None
    return Seen(str(parsed), parsed.number, parsed.stream, event.message) if parsed is not None else None


def stream_of(exchange: Exchange) -> str | None:
    """Return the name of the stream that an exchange shows, `None` while nothing is known of it."""
    ids = [exchange.after] if exchange.after is not None else [event.id for event in exchange.events]
    parsed = [EventId.parse(event_id) for event_id in ids if event_id is not None]
    if exchange.method == "GET" and exchange.after is None:
        return STANDALONE
    return parsed[0].stream if parsed and parsed[0] is not None else None


def call_of(exchange: Exchange) -> Mark | None:
    """Return the mark of the call that a request makes."""
    marks = marks_in(exchange.message)
    return marks[0] if marks else None


def sessions_in(records: Iterable[Exchange]) -> list[SessionRecords]:
    """Return the sessions whose creation was acknowledged, with what was recorded of each."""
    sessions: dict[str, SessionRecords] = {}
    for exchange in records:
        if exchange.new_session is not None and exchange.outcome is Outcome.COMPLETE:
            sessions.setdefault(exchange.new_session, SessionRecords(exchange.new_session, exchange))
    for exchange in records:
        if exchange.session in sessions:
            sessions[exchange.session].exchanges.append(exchange)
    return list(sessions.values())


def judge(records: Sequence[Exchange], *, processes: int) -> list[Fault]:
    """Return everything that went wrong."""
    faults: list[Fault] = []
    for session in sessions_in(records):
        for check in CHECKS:
            faults.extend(check(session))
        if processes > 1:
            faults.extend(check_spread(session))
    faults.extend(check_internal_errors(records))
    return faults


# ---------------------------------------------------------------- sessions and state


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
        if exchange.at < deletion.ended < (exchange.ended or deletion.ended) - LIVE_LIMIT:
            yield Fault(Row.RESURRECTED, "a connection outlived its session", [deletion, exchange])


def check_state(session: SessionRecords) -> Iterator[Fault]:
    """What was acknowledged is in the state, once; what was not may be there, once; nothing else is."""
    changes = [call for call in session.calls if call.tool == "remember"]
    if session.deletions or not changes:
        return
    looks = [call for call in session.calls if call.tool == "recall" and session.succeeded(call)]
    held: list[str] = []
    if looks:
        (answer,) = session.answers(looks[-1])
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


# ---------------------------------------------------------------- events


def check_connections(session: SessionRecords) -> Iterator[Fault]:
    """Every connection shows the events after the one it goes on after, all of them, each once, in order."""
    for exchange in session.exchanges:
        if exchange.status == 200:
            yield from _check_connection(session, exchange)


def _check_connection(session: SessionRecords, exchange: Exchange) -> Iterator[Fault]:
    after = EventId.parse(exchange.after) if exchange.after is not None else None
    start = after.number if after is not None else 0
    shown = [seen for event in exchange.events if (seen := seen_event(event)) is not None]
    numbers = [seen.number for seen in shown]
    again = sorted({number for number in numbers if number <= start or numbers.count(number) > 1})
    if again:
        yield Fault(Row.EVENTS_TWICE, f"events {again} came again after {start}", [exchange])
    if numbers != sorted(numbers):
        yield Fault(Row.OUT_OF_ORDER, f"events came as {numbers}", [exchange])
    receives = exchange.path == "/mcp/receive"
    stream = None if receives else stream_of(exchange)

    def shows(seen: Seen) -> bool:
        return is_received(seen.stream) and seen.message is not None if receives else seen.stream == stream

    expected = {seen.number for seen in session.events.values() if start < seen.number <= max(numbers, default=0)}
    missing = sorted(number for number in expected - set(numbers) if shows(session.events[number]))
    if missing:
        yield Fault(Row.EVENTS_LOST, f"events {missing} were left out", [exchange])
    for seen in shown:
        if seen.message != session.events[seen.number].message or seen.id != session.events[seen.number].id:
            yield Fault(Row.EVENTS_LOST, f"event {seen.number} is not always the same", [exchange])
        if not shows(seen):
            yield Fault(Row.WRONG_SESSION, f"event {seen.id} is of another stream", [exchange])


def check_open_streams(session: SessionRecords) -> Iterator[Fault]:
    """What was said on the standalone stream soon reaches a connection that shows it and stays open."""
    said: list[tuple[float, Seen]] = []
    for call in session.calls:
        told = call.ended if call.tool == "announce" and session.succeeded(call) else None
        if told is not None and call.outcome is Outcome.COMPLETE:
            mark = call_of(call)
            numbered = ((seen, each) for seen in session.events.values() for each in _numbered(seen.message))
            said += [(told, seen) for seen, each in numbered if mark and each.call == mark.call]
    for exchange in session.exchanges:
        receives = exchange.path == "/mcp/receive"
        if not exchange.streamed or exchange.began is None or not (receives or stream_of(exchange) == STANDALONE):
            continue
        after = EventId.parse(exchange.after) if exchange.after is not None else None
        shown = {event.id for event in exchange.events}
        for told, seen in said:
            late = exchange.began < told < (exchange.ended or told) - LIVE_LIMIT
            if late and seen.number > (after.number if after else 0) and seen.id not in shown:
                yield Fault(Row.EVENTS_LOST, f"{seen.id}, told of at {told:.2f}, did not reach who listens", [exchange])


def check_numbered(session: SessionRecords) -> Iterator[Fault]:
    """Of what a call says in turn nothing is missing, nothing is there twice, and the order is kept."""
    logged: defaultdict[Mark, dict[int, set[int]]] = defaultdict(dict)
    unlogged: defaultdict[Mark, dict[int, Exchange]] = defaultdict(dict)
    for seen in session.events.values():
        for mark in _numbered(seen.message):
            logged[Mark(mark.owner, mark.call)].setdefault(mark.index or 0, set()).add(seen.number)
    for exchange in session.exchanges:
        said = [(event, mark) for event in exchange.events for mark in _numbered(event.message)]
        last: dict[str, int] = {}
        for event, mark in said:
            index = mark.index or 0
            if index <= last.get(mark.call, -1):
                row = Row.EVENTS_TWICE if index == last[mark.call] else Row.OUT_OF_ORDER
                yield Fault(row, f"{mark}.{index} came after {last[mark.call]}", [exchange])
            last[mark.call] = index
            if event.id is None:
                unlogged[Mark(mark.owner, mark.call)][index] = exchange
    for call in session.calls:
        mark = call_of(call)
        if mark is None:
            continue
        by_index, without_id = logged.get(mark, {}), unlogged.get(mark, {})
        yield from _check_indices(session, call, by_index, without_id)


def check_list_changed(session: SessionRecords) -> Iterator[Fault]:
    """Of the notifications that all look the same there are as many as calls that sent one."""
    calls = [call for call in session.calls if call.tool == "announce"]
    told = [call for call in calls if session.succeeded(call)]
    methods = [(seen.message or {}).get("method") for seen in session.events.values() if seen.stream == STANDALONE]
    count = methods.count("notifications/tools/list_changed")
    if count > len(calls):
        yield Fault(Row.EVENTS_TWICE, f"{count} times the list has changed in {len(calls)} calls", calls)
    if count < len(told) and not session.deletions:
        yield Fault(Row.EVENTS_LOST, f"{count} times the list has changed in {len(told)} successful calls", told)


def _numbered(message: Message | None) -> list[Mark]:
    if message is None or "method" not in message:
        return []
    return [mark for mark in marks_in(message) if mark.index is not None]


def _check_indices(
    session: SessionRecords, call: Exchange, logged: dict[int, set[int]], unlogged: dict[int, Exchange]
) -> Iterator[Fault]:
    mark = call_of(call)
    for index, numbers in sorted(logged.items()):
        if len(numbers) > 1:
            yield Fault(Row.EVENTS_TWICE, f"{mark}.{index} is events {sorted(numbers)}", [call])
        elif index in unlogged and (again := _shown_again(session, numbers, unlogged[index])):
            yield Fault(Row.EVENTS_TWICE, f"{mark}.{index} came without an id and with one", [call, *again])
    if session.deletions:
        return  # what was not read by then is gone with the session
    seen = set(logged) | set(unlogged)
    arguments = _arguments(call)
    said = arguments.get("steps") or arguments.get("times") or 0
    end = said if session.succeeded(call) else max(seen, default=-1) + 1
    missing = sorted(set(range(end)) - seen)
    if missing:
        streams = [each for each in session.exchanges if each is not call and _shows_call(each, call)]
        yield Fault(Row.EVENTS_LOST, f"{mark} never said {missing} of {said}", [call, *streams])


def _shown_again(session: SessionRecords, numbers: set[int], before: Exchange) -> list[Exchange]:
    return [
        exchange
        for exchange in session.exchanges
        if exchange is not before and not exchange.replay and exchange.method == "GET"
        for event in exchange.events
        if (seen := seen_event(event)) is not None and seen.number in numbers
    ]


def _shows_call(exchange: Exchange, call: Exchange) -> bool:
    stream = stream_of(call)
    return exchange.streamed and stream is not None and stream_of(exchange) == stream


# ---------------------------------------------------------------- answers


def check_answered(session: SessionRecords) -> Iterator[Fault]:
    """A call whose answer has begun, or that was accepted for background work, has one answer."""
    for call in session.calls:
        answers = session.answers(call)
        if call.path == "/mcp/send":
            accepted = call.status == 202
            if accepted and not answers and not session.deletions:
                yield Fault(Row.UNANSWERED, f"{call.rpc_id} was accepted and never answered", [call])
            if len(answers) > 1:
                yield Fault(Row.ANSWERED_TWICE, f"{call.rpc_id} has {len(answers)} answers", [call])
            continue
        if len(answers) > 1:
            yield Fault(Row.ANSWERED_TWICE, f"{call.rpc_id} has {len(answers)} answers", [call])
        elif not answers and _is_owed(session, call):
            streams = [each for each in session.exchanges if each is not call and _shows_call(each, call)]
            yield Fault(Row.UNANSWERED, f"{call_of(call)} was never answered", [call, *streams])


def _is_owed(session: SessionRecords, call: Exchange) -> bool:
    """Say whether a call that has no answer should have one."""
    if call.outcome is Outcome.OPEN:
        return True
    if call.status is None:
        waited = (call.ended or call.at) - call.at
        return call.outcome is Outcome.HUNG_UP and waited > SILENCE_LIMIT
    if call.status >= 400:
        return False
    if call.outcome is Outcome.HUNG_UP and stream_of(call) is None:
        return False  # the client left before it had an id to come back with
    return not session.deletions


def check_whose(session: SessionRecords) -> Iterator[Fault]:
    """Whatever reaches a session carries its own mark, and an answer that of the request."""
    key = session_key(session.id)
    for exchange in session.exchanges:
        for mark in marks_in([exchange.body, [event.message for event in exchange.events]]):
            if mark.owner != session.owner:
                yield Fault(Row.WRONG_SESSION, f"{mark} reached {session.owner}", [exchange])
        for event in exchange.events:
            parsed = EventId.parse(event.id) if event.id is not None else None
            if parsed is not None and not parsed.belongs_to(key):
                yield Fault(Row.WRONG_SESSION, f"event {event.id} is not one of {session.id[:8]}", [exchange])
    for call in session.calls:
        mark = call_of(call)
        for answer in session.answers(call):
            strangers = [found for found in marks_in(answer) if mark is not None and found.call != mark.call]
            if strangers or answer.get("id") not in (call.rpc_id, None) or "mismatched" in str(answer):
                yield Fault(Row.WRONG_SESSION, f"{mark} was answered with {answer}", [call])


def check_replies(session: SessionRecords) -> Iterator[Fault]:
    """A reply that was acknowledged reaches the tool that asked."""
    questions: dict[str, str] = {}
    for exchange in session.exchanges:
        for event in exchange.events:
            if event.message is not None and event.message.get("method") == "elicitation/create":
                questions[event.message["params"]["message"]] = event.message["id"]
    replies = {
        each.rpc_id: each
        for each in session.exchanges
        if each.method == "POST" and each.rpc_method is None and each.status == 202
    }
    for call in session.calls:
        for answer in session.answers(call):
            _, missed, rest = str(answer.get("result", "")).partition("unanswered ")
            question = next((each for each in questions if missed and rest.startswith(each)), None)
            reply = replies.get(questions[question]) if question is not None else None
            told = max((event.at for event in call.events), default=call.at)
            if reply is not None and reply.began is not None and told - reply.began > REPLY_LIMIT:
                yield Fault(Row.REPLIES_LOST, f"the reply to {question} never arrived", [reply, call])


def check_cancellations(session: SessionRecords) -> Iterator[Fault]:
    """A call whose cancellation was acknowledged does not succeed, unless it was nearly done."""
    for exchange in session.exchanges:
        if exchange.status != 202 or exchange.method != "POST":
            continue
        if exchange.path == "/mcp/abort":
            request_id = exchange.message["requestId"]
        elif exchange.rpc_method == "notifications/cancelled":
            request_id = exchange.message["params"]["requestId"]
        else:
            continue
        calls = [call for call in session.calls if call.rpc_id == request_id and session.succeeded(call)]
        for call in calls:
            begun = call.began is not None and call.began < exchange.at < call.at + CANCEL_LIMIT
            if exchange.path == "/mcp/abort" or (begun and _arguments(call).get("seconds", 0) >= LONG_CALL):
                yield Fault(Row.CANCELLATIONS_LOST, f"{call_of(call)} was cancelled and succeeded", [exchange, call])


def _arguments(call: Exchange) -> Message:
    """Return the arguments of a tool call."""
    return call.message["params"]["arguments"] if call.tool is not None else {}


def check_internal_errors(records: Iterable[Exchange]) -> Iterator[Fault]:
    """No request fails for a reason that nobody foresaw."""
    for exchange in records:
        if (
            exchange.status == 500
            or exchange.error_code == "INTERNAL_ERROR"
            or "INTERNAL_ERROR" in str(exchange.events)
        ):
            yield Fault(Row.INTERNAL, "an internal error", [exchange])


def check_spread(session: SessionRecords) -> Iterator[Fault]:
    """The proxy sends the requests of a session to several processes: else the suite shows nothing."""
    processes = [exchange.process for exchange in session.exchanges if exchange.process is not None]
    if len(processes) >= _SPREAD_FROM and len(set(processes)) == 1:
        yield Fault(Row.NOT_SPREAD, f"all {len(processes)} requests of {session.id[:8]} went to {processes[0]}")


CHECKS: Final = (
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


# ---------------------------------------------------------------- what is printed


def counts(records: Sequence[Exchange]) -> dict[str, int]:
    """Count what is no fault, but tells how much was tried."""
    sessions = sessions_in(records)
    broken = [each for each in records if each.outcome is Outcome.BROKEN]
    resumed = [each for each in records if each.after is not None and each.method == "GET" and not each.replay]
    refusals = Counter(f"answers {each.status} {each.error_code}" for each in records if (each.status or 0) >= 400)
    several = [each for each in sessions if len({other.process for other in each.exchanges} - {None}) > 1]
    return {
        "requests": len(records),
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
