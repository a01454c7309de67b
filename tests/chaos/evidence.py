"""The records of one session, and what they tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from mcp_tornado.sessions import EventId
from mcp_tornado.streams.names import STANDALONE, is_received
from tests.chaos.marks import Mark, marks_in
from tests.chaos.records import Exchange, Message, Outcome, Passed, Pause, is_response, succeeded

_WAITED: Final = 0.5
"""What a connection shows after so many seconds was not there yet when it was made."""


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
    pauses: Sequence[Pause] = ()
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

    def resumed(self, call: Exchange) -> list[Exchange]:
        """Return the exchanges that went on with the stream of a call."""
        stream = stream_of(call)
        others = (each for each in self.exchanges if each is not call and each.streamed)
        return [each for each in others if stream is not None and stream_of(each) == stream]

    def answered_by(self, call: Exchange) -> float:
        """Return when the answer to a call was first seen."""
        if is_response(call.body) and call.path != "/mcp/send":
            return call.ended or call.at
        answers = self.answers(call)
        shown = (event for each in self.exchanges for event in each.events)
        return min((event.at for event in shown if event.message in answers), default=call.at)

    def said_live(self, call: Exchange) -> list[tuple[Exchange, Passed]]:
        """Return what was said on the stream of a call, where the connection that showed it was waiting for it."""
        if call.path == "/mcp/send":
            receivers = [each for each in self.exchanges if each.path == "/mcp/receive"]
            shown = [(each, event) for each in receivers for event in each.events]
            shown = [pair for pair in shown if (pair[1].message or {}).get("id") == call.rpc_id]
        else:
            shown = [(each, event) for each in (call, *self.resumed(call)) for event in each.events]
        return [(exchange, event) for exchange, event in shown if event.at - exchange.at > _WAITED]

    def undisturbed(self, process: int | None, start: float, end: float) -> float:
        """Return the seconds between two times in which the process ran and the store was there."""
        held = [pause for pause in self.pauses if pause.process in (process, None)]
        return end - start - sum(max(0.0, min(end, each.end) - max(start, each.start)) for each in held)

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


def sessions_in(records: Iterable[Exchange], pauses: Sequence[Pause] = ()) -> list[SessionRecords]:
    """Return the sessions whose creation was acknowledged, with what was recorded of each."""
    sessions: dict[str, SessionRecords] = {}
    for exchange in records:
        if exchange.new_session is not None and exchange.outcome is Outcome.COMPLETE:
            sessions.setdefault(exchange.new_session, SessionRecords(exchange.new_session, exchange, pauses))
    for exchange in records:
        if exchange.session in sessions:
            sessions[exchange.session].exchanges.append(exchange)
    return list(sessions.values())
