"""Answers: every request that was taken has one, it is the right one, and replies and cancellations arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mcp_tornado.sessions import EventId
from mcp_tornado.sessions.ids import session_key
from tests.chaos.evidence import SessionRecords, call_of, stream_of
from tests.chaos.faults import LIVE_LIMIT, Fault, Row
from tests.chaos.marks import marks_in
from tests.chaos.records import Exchange, Outcome

LONG_CALL: Final = 8.0
"""A call that lasts so many seconds does not succeed where its cancellation was acknowledged in its first half."""
_NEARLY_DONE: Final = 1.0
"""An abort is acknowledged by the process that has the call: so many seconds before its end it takes effect."""

_SILENCE_LIMIT: Final = 45.0
"""Seconds without a byte of an answer after which a request counts as never answered; no process is stopped so long."""


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
            yield Fault(Row.UNANSWERED, f"{call_of(call)} was never answered", [call, *session.resumed(call)])


def _is_owed(session: SessionRecords, call: Exchange) -> bool:
    """Say whether a call that has no answer should have one."""
    if call.outcome is Outcome.OPEN:
        return True
    if call.status is None:
        waited = (call.ended or call.at) - call.at
        return call.outcome is Outcome.HUNG_UP and waited > _SILENCE_LIMIT
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
        for exchange, event in session.said_live(call):
            _, missed, rest = str((event.message or {}).get("result", "")).partition("unanswered ")
            question = next((each for each in questions if missed and rest.startswith(each)), None)
            reply = replies.get(questions[question]) if question is not None else None
            if reply is None or reply.began is None:
                continue
            if session.undisturbed(call.process, reply.began, event.at) > LIVE_LIMIT:
                yield Fault(Row.REPLIES_LOST, f"the reply to {question} never arrived", [reply, call, exchange])


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
        waits = [call for call in session.calls if call.rpc_id == request_id and call.tool == "wait"]
        calls = [call for call in waits if session.succeeded(call)]
        for call in calls:
            begun = call.began is not None and call.began < exchange.at
            left = session.undisturbed(call.process, exchange.ended or exchange.at, call.at + call.arguments["seconds"])
            if begun and left > (_NEARLY_DONE if exchange.path == "/mcp/abort" else LONG_CALL / 2):
                yield Fault(Row.CANCELLATIONS_LOST, f"{call_of(call)} was cancelled and succeeded", [exchange, call])
