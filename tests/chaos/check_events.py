"""Events: none is lost, none comes twice, the order is kept, and they reach who listens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from mcp_tornado.sessions import EventId
from mcp_tornado.streams.names import STANDALONE, is_received
from tests.chaos.evidence import Seen, SessionRecords, call_of, seen_event, stream_of
from tests.chaos.faults import LIVE_LIMIT, Fault, Row
from tests.chaos.marks import Mark, marks_in
from tests.chaos.records import Exchange, Message, Outcome


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
            late = session.undisturbed(exchange.process, told, exchange.ended or told) > LIVE_LIMIT
            if exchange.began < told and late and seen.number > (after.number if after else 0) and seen.id not in shown:
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
        last: dict[str, tuple[int, str | None]] = {}
        for event, mark in said:
            index = mark.index or 0
            before, before_id = last.get(mark.call, (-1, None))
            if index < before:
                yield Fault(Row.OUT_OF_ORDER, f"{mark}.{index} came after {before}", [exchange])
            elif index == before and None in (event.id, before_id):  # if both have ids, the log has it twice: see below
                yield Fault(Row.EVENTS_TWICE, f"{mark}.{index} came again", [exchange])
            last[mark.call] = index, event.id
            if event.id is None:
                unlogged[Mark(mark.owner, mark.call)][index] = exchange
    for call in session.calls:
        mark = call_of(call)
        if mark is None:
            continue
        by_index, without_id = logged.get(mark, {}), unlogged.get(mark, {})
        yield from _check_indices(session, call, by_index, without_id)


def check_list_changed(session: SessionRecords) -> Iterator[Fault]:
    """Of the notifications that all look the same there are as many as calls that sent one.

    Calls that ran at the same time may have sent one together: it says no less.
    """
    calls = [call for call in session.calls if call.tool == "announce"]
    told = _in_turn(session, [call for call in calls if session.succeeded(call)])
    methods = [(seen.message or {}).get("method") for seen in session.events.values() if seen.stream == STANDALONE]
    count = methods.count("notifications/tools/list_changed")
    if count > len(calls):
        yield Fault(Row.EVENTS_TWICE, f"{count} times the list has changed in {len(calls)} calls", calls)
    if count < len(told) and not session.deletions:
        yield Fault(Row.EVENTS_LOST, f"{count} times the list has changed in {len(told)} successful calls", told)


def _in_turn(session: SessionRecords, calls: Sequence[Exchange]) -> list[Exchange]:
    """Return as many of these calls as surely ran one after the other."""
    chosen: list[Exchange] = []
    free = 0.0
    for end, call in sorted(((session.answered_by(call), call) for call in calls), key=lambda pair: pair[0]):
        if call.at >= free:
            chosen.append(call)
            free = end
    return chosen


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
            shown = _shown(session, numbers)
            yield Fault(Row.EVENTS_TWICE, f"{mark}.{index} is events {sorted(numbers)}", [call, *shown])
        elif index in unlogged and (again := _shown_again(session, numbers, unlogged[index])):
            yield Fault(Row.EVENTS_TWICE, f"{mark}.{index} came without an id and with one", [call, *again])
    if session.deletions:
        return  # what was not read by then is gone with the session
    seen = set(logged) | set(unlogged)
    said = call.arguments.get("steps") or call.arguments.get("times") or 0
    end = said if session.succeeded(call) else max(seen, default=-1) + 1
    missing = sorted(set(range(end)) - seen)
    if missing:
        yield Fault(Row.EVENTS_LOST, f"{mark} never said {missing} of {said}", [call, *session.resumed(call)])


def _shown_again(session: SessionRecords, numbers: set[int], before: Exchange) -> list[Exchange]:
    return [each for each in _shown(session, numbers) if each is not before and each.method == "GET"]


def _shown(session: SessionRecords, numbers: set[int]) -> list[Exchange]:
    """Return the exchanges that showed one of these events to the client."""
    own = [each for each in session.exchanges if not each.replay]
    return [each for each in own if any((seen := seen_event(it)) and seen.number in numbers for it in each.events)]
