"""Checks of events: none is lost, none comes twice, their order is kept, and open streams receive them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from mcp_tornado.sessions import EventId
from mcp_tornado.streams.names import STANDALONE, is_received
from tests.chaos.marks import Mark, find_marks
from tests.chaos.records import Exchange, Message, Outcome
from tests.chaos.session_records import LoggedEvent, SessionRecords, logged_event, mark_of, stream_of
from tests.chaos.violations import DELIVERY_LIMIT_SECONDS, Row, Violation


def check_connections(session: SessionRecords) -> Iterator[Violation]:
    """Check that each connection shows all events after the one that it resumes after, each once, in order."""
    for exchange in session.exchanges:
        if exchange.status == 200:
            yield from _check_connection(session, exchange)


def _check_connection(session: SessionRecords, exchange: Exchange) -> Iterator[Violation]:
    after = EventId.parse(exchange.after) if exchange.after is not None else None
    start = after.number if after is not None else 0
    shown = [logged for event in exchange.events if (logged := logged_event(event)) is not None]
    numbers = [event.number for event in shown]
    repeated = sorted({number for number in numbers if number <= start or numbers.count(number) > 1})
    if repeated:
        yield Violation(Row.EVENTS_TWICE, f"events {repeated} came again after {start}", [exchange])
    if numbers != sorted(numbers):
        yield Violation(Row.OUT_OF_ORDER, f"events came as {numbers}", [exchange])
    receives = exchange.path == "/mcp/receive"
    stream = None if receives else stream_of(exchange)

    def belongs(event: LoggedEvent) -> bool:
        return is_received(event.stream) and event.message is not None if receives else event.stream == stream

    expected = {event.number for event in session.events.values() if start < event.number <= max(numbers, default=0)}
    missing = sorted(number for number in expected - set(numbers) if belongs(session.events[number]))
    if missing:
        yield Violation(Row.EVENTS_LOST, f"events {missing} were left out", [exchange])
    for event in shown:
        if event.message != session.events[event.number].message or event.id != session.events[event.number].id:
            yield Violation(Row.EVENTS_LOST, f"event {event.number} is not always the same", [exchange])
        if not belongs(event):
            yield Violation(Row.WRONG_SESSION, f"event {event.id} belongs to another stream", [exchange])


def check_open_streams(session: SessionRecords) -> Iterator[Violation]:
    """Check that an event of the standalone stream soon reaches each open connection that shows that stream."""
    announced: list[tuple[float, LoggedEvent]] = []
    for call in session.calls:
        at = call.ended if call.tool == "announce" and session.has_succeeded(call) else None
        if at is not None and call.outcome is Outcome.COMPLETE:
            mark = mark_of(call)
            numbered = ((event, each) for event in session.events.values() for each in _numbered_marks(event.message))
            announced += [(at, event) for event, each in numbered if mark and each.call == mark.call]
    for exchange in session.exchanges:
        receives = exchange.path == "/mcp/receive"
        if not exchange.streamed or exchange.began is None or not (receives or stream_of(exchange) == STANDALONE):
            continue
        after = EventId.parse(exchange.after) if exchange.after is not None else None
        start = after.number if after else 0
        shown = {event.id for event in exchange.events}
        for at, event in announced:
            open_seconds = session.undisturbed_seconds(exchange.process, at, exchange.ended or at)
            was_due = exchange.began < at and open_seconds > DELIVERY_LIMIT_SECONDS and event.number > start
            if was_due and event.id not in shown:
                description = f"{event.id}, announced at {at:.2f}, did not reach an open stream"
                yield Violation(Row.EVENTS_LOST, description, [exchange])


def check_numbered(session: SessionRecords) -> Iterator[Violation]:
    """Check that the numbered messages of each call are complete, without duplicates, and in order."""
    logged: defaultdict[Mark, dict[int, set[int]]] = defaultdict(dict)
    unlogged: defaultdict[Mark, dict[int, Exchange]] = defaultdict(dict)
    for event in session.events.values():
        for mark in _numbered_marks(event.message):
            logged[Mark(mark.owner, mark.call)].setdefault(mark.index or 0, set()).add(event.number)
    for exchange in session.exchanges:
        marked = [(event, mark) for event in exchange.events for mark in _numbered_marks(event.message)]
        last: dict[str, tuple[int, str | None]] = {}
        for event, mark in marked:
            index = mark.index or 0
            before, before_id = last.get(mark.call, (-1, None))
            if index < before:
                yield Violation(Row.OUT_OF_ORDER, f"{mark}.{index} came after {before}", [exchange])
            elif index == before and None in (event.id, before_id):  # with two ids, `_check_indices` finds it
                yield Violation(Row.EVENTS_TWICE, f"{mark}.{index} came again", [exchange])
            last[mark.call] = index, event.id
            if event.id is None:
                unlogged[Mark(mark.owner, mark.call)][index] = exchange
    for call in session.calls:
        mark = mark_of(call)
        if mark is not None:
            yield from _check_indices(session, call, logged.get(mark, {}), unlogged.get(mark, {}))


def check_list_changed(session: SessionRecords) -> Iterator[Violation]:
    """Check that there are as many `list_changed` notifications, which carry no mark, as calls that sent one.

    Calls that ran at the same time may share one notification, from which the client learns the same.
    """
    calls = [call for call in session.calls if call.tool == "announce"]
    successive = _successive_calls(session, [call for call in calls if session.has_succeeded(call)])
    standalone = [event.message or {} for event in session.events.values() if event.stream == STANDALONE]
    count = [message.get("method") for message in standalone].count("notifications/tools/list_changed")
    if count > len(calls):
        yield Violation(Row.EVENTS_TWICE, f"{count} list_changed notifications for {len(calls)} calls", calls)
    if count < len(successive) and not session.deletions:
        description = f"{count} list_changed notifications for {len(successive)} successful calls"
        yield Violation(Row.EVENTS_LOST, description, successive)


def _successive_calls(session: SessionRecords, calls: Sequence[Exchange]) -> list[Exchange]:
    """Return a largest set of these calls of which each began after the one before had ended."""
    chosen: list[Exchange] = []
    free_at = 0.0
    for end, call in sorted(((session.answered_at(call), call) for call in calls), key=lambda pair: pair[0]):
        if call.at >= free_at:
            chosen.append(call)
            free_at = end
    return chosen


def _numbered_marks(message: Message | None) -> list[Mark]:
    if message is None or "method" not in message:
        return []
    return [mark for mark in find_marks(message) if mark.index is not None]


def _check_indices(
    session: SessionRecords, call: Exchange, logged: dict[int, set[int]], unlogged: dict[int, Exchange]
) -> Iterator[Violation]:
    """Check the numbered messages of one call.

    Args:
        session: The session of the call.
        call: The call.
        logged: The numbers of the logged events, by the index of the message.
        unlogged: The connection that showed the message without an event id, by the index of the message.
    """
    mark = mark_of(call)
    for index, numbers in sorted(logged.items()):
        if len(numbers) > 1:
            evidence = [call, *_exchanges_with(session, numbers)]
            yield Violation(Row.EVENTS_TWICE, f"{mark}.{index} is events {sorted(numbers)}", evidence)
        elif index in unlogged and (again := _later_reads(session, numbers, unlogged[index])):
            yield Violation(Row.EVENTS_TWICE, f"{mark}.{index} came without an id and with one", [call, *again])
    if session.deletions:
        return  # events that were not read before the end are deleted with the session
    indices = set(logged) | set(unlogged)
    total = call.arguments.get("steps") or call.arguments.get("times") or 0
    end = total if session.has_succeeded(call) else max(indices, default=-1) + 1
    missing = sorted(set(range(end)) - indices)
    if missing:
        evidence = [call, *session.resumptions(call)]
        yield Violation(Row.EVENTS_LOST, f"{mark} lacks messages {missing} of {total}", evidence)


def _later_reads(session: SessionRecords, numbers: set[int], before: Exchange) -> list[Exchange]:
    """Return the GET exchanges other than `before` that showed one of these events to the client."""
    return [each for each in _exchanges_with(session, numbers) if each is not before and each.method == "GET"]


def _exchanges_with(session: SessionRecords, numbers: set[int]) -> list[Exchange]:
    """Return the exchanges that showed one of these events to the client."""
    return [
        exchange
        for exchange in session.exchanges
        if not exchange.replay
        and any((logged := logged_event(event)) and logged.number in numbers for event in exchange.events)
    ]
