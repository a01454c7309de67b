"""The records of one session, and conclusions from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from mcp_tornado.sessions import EventId
from mcp_tornado.streams.names import STANDALONE, is_received
from tests.chaos.marks import Mark, find_marks
from tests.chaos.records import Exchange, ForwardedEvent, Message, Outage, Outcome, is_response, is_success

_LIVE_EVENT_DELAY_SECONDS: Final = 0.5
"""An event that a connection shows later than this after its start was not in the log when the connection began."""


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event of a session, as its id and its message describe it."""

    id: str
    number: int
    stream: str
    message: Message | None


@dataclass
class SessionRecords:
    """All records of one session whose creation was acknowledged."""

    id: str
    created: Exchange
    outages: Sequence[Outage] = ()
    exchanges: list[Exchange] = field(default_factory=list[Exchange])

    @cached_property
    def owner(self) -> str | None:
        """The owner that the client's own messages name; one client sends all of them."""
        for exchange in (self.created, *self.exchanges):
            if exchange.method == "POST" and (marks := find_marks(exchange.message)):
                return marks[0].owner
        return None

    @cached_property
    def deletions(self) -> list[Exchange]:
        return [exchange for exchange in self.exchanges if exchange.method == "DELETE"]

    @cached_property
    def events(self) -> dict[int, LoggedEvent]:
        """Every logged event that appeared on any connection, by its number."""
        found: dict[int, LoggedEvent] = {}
        for exchange in self.exchanges:
            for event in exchange.events:
                logged = logged_event(event)
                if logged is not None:
                    found.setdefault(logged.number, logged)
        return found

    @cached_property
    def calls(self) -> list[Exchange]:
        """The requests that must be answered, each once."""
        return [exchange for exchange in self.exchanges if exchange.is_call]

    def answers(self, call: Exchange) -> list[Message]:
        """Return the answers to a call on any connection; each event counts once."""
        if is_response(call.body) and call.path != "/mcp/send":
            return [call.body]
        if call.path == "/mcp/send":
            logged = (event for event in self.events.values() if is_received(event.stream))
            answers = [event.message for event in logged if event.stream != STANDALONE and is_response(event.message)]
            return [message for message in answers if message is not None and message.get("id") == call.rpc_id]
        stream = stream_of(call)
        logged = (event.message for event in self.events.values() if event.stream == stream)
        unlogged = (event.message for event in call.events if event.id is None)
        return [message for message in (*logged, *unlogged) if message is not None and is_response(message)]

    def resumptions(self, call: Exchange) -> list[Exchange]:
        """Return the exchanges that resumed the stream of a call."""
        stream = stream_of(call)
        others = (each for each in self.exchanges if each is not call and each.streamed)
        return [each for each in others if stream is not None and stream_of(each) == stream]

    def answered_at(self, call: Exchange) -> float:
        """Return when the answer to a call first appeared."""
        if is_response(call.body) and call.path != "/mcp/send":
            return call.ended or call.at
        answers = self.answers(call)
        shown = (event for each in self.exchanges for event in each.events)
        return min((event.at for event in shown if event.message in answers), default=call.at)

    def live_events(self, call: Exchange) -> list[tuple[Exchange, ForwardedEvent]]:
        """Return the events of a call for which a connection was already waiting, with that connection."""
        if call.path == "/mcp/send":
            receivers = [each for each in self.exchanges if each.path == "/mcp/receive"]
            shown = [(each, event) for each in receivers for event in each.events]
            shown = [pair for pair in shown if (pair[1].message or {}).get("id") == call.rpc_id]
        else:
            shown = [(each, event) for each in (call, *self.resumptions(call)) for event in each.events]
        return [(exchange, event) for exchange, event in shown if event.at - exchange.at > _LIVE_EVENT_DELAY_SECONDS]

    def undisturbed_seconds(self, process: int | None, start: float, end: float) -> float:
        """Return the seconds between two times in which the process ran and the store was reachable."""
        outages = [outage for outage in self.outages if outage.process in (process, None)]
        return end - start - sum(max(0.0, min(end, each.end) - max(start, each.start)) for each in outages)

    def has_succeeded(self, call: Exchange) -> bool:
        """Return whether any connection showed that a call succeeded."""
        return any(is_success(answer) for answer in self.answers(call))


def logged_event(event: ForwardedEvent) -> LoggedEvent | None:
    """Return what the id of an event describes; `None` if it has no id, or if it is the priming event of a GET.

    The priming event of a GET has the number 0. It is not stored, and every GET may begin with it.
    """
    parsed = EventId.parse(event.id) if event.id is not None else None
    if parsed is None or parsed.number == 0:
        return None
    return LoggedEvent(str(parsed), parsed.number, parsed.stream, event.message)


def stream_of(exchange: Exchange) -> str | None:
    """Return the name of the stream that an exchange shows; `None` if no event id names it."""
    ids = [exchange.after] if exchange.after is not None else [event.id for event in exchange.events]
    parsed = [EventId.parse(event_id) for event_id in ids if event_id is not None]
    if exchange.method == "GET" and exchange.after is None:
        return STANDALONE
    return parsed[0].stream if parsed and parsed[0] is not None else None


def mark_of(exchange: Exchange) -> Mark | None:
    """Return the mark in the message of a request."""
    marks = find_marks(exchange.message)
    return marks[0] if marks else None


def sessions_in(records: Iterable[Exchange], outages: Sequence[Outage] = ()) -> list[SessionRecords]:
    """Return the sessions whose creation was acknowledged, each with its records."""
    sessions: dict[str, SessionRecords] = {}
    for exchange in records:
        if exchange.new_session is not None and exchange.outcome is Outcome.COMPLETE:
            sessions.setdefault(exchange.new_session, SessionRecords(exchange.new_session, exchange, outages))
    for exchange in records:
        if exchange.session in sessions:
            sessions[exchange.session].exchanges.append(exchange)
    return list(sessions.values())
