"""Checks of answers: each accepted request has exactly one, the right one, and replies and cancellations arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mcp_tornado.sessions import EventId
from mcp_tornado.sessions.ids import session_key
from tests.chaos.marks import find_marks
from tests.chaos.records import Exchange, Outcome
from tests.chaos.session_records import SessionRecords, mark_of, stream_of
from tests.chaos.violations import DELIVERY_LIMIT_SECONDS, Row, Violation

LONG_CALL_SECONDS: Final = 8.0
"""Duration of a call that must not succeed if its cancellation was acknowledged in its first half."""
_ABORT_MARGIN_SECONDS: Final = 1.0
"""An abort must take effect if it was acknowledged at least this long before the end of the call.

The process that runs the call acknowledges it, so no delivery to another process is involved.
"""

_SILENCE_LIMIT_SECONDS: Final = 45.0
"""A request without a byte of an answer for so long counts as unanswered; no process is ever stopped so long."""


def check_answered(session: SessionRecords) -> Iterator[Violation]:
    """Check that a call whose answer began, or that was accepted for background work, has exactly one answer."""
    for call in session.calls:
        answers = session.answers(call)
        if call.path == "/mcp/send":
            accepted = call.status == 202
            if accepted and not answers and not session.deletions:
                yield Violation(Row.UNANSWERED, f"{call.rpc_id} was accepted and never answered", [call])
            if len(answers) > 1:
                yield Violation(Row.ANSWERED_TWICE, f"{call.rpc_id} has {len(answers)} answers", [call])
            continue
        if len(answers) > 1:
            yield Violation(Row.ANSWERED_TWICE, f"{call.rpc_id} has {len(answers)} answers", [call])
        elif not answers and _must_have_answer(session, call):
            evidence = [call, *session.resumptions(call)]
            yield Violation(Row.UNANSWERED, f"{mark_of(call)} was never answered", evidence)


def _must_have_answer(session: SessionRecords, call: Exchange) -> bool:
    """Return whether the missing answer to a call is a violation."""
    if call.outcome is Outcome.OPEN:
        return True
    if call.status is None:
        waited = (call.ended or call.at) - call.at
        return call.outcome is Outcome.CLIENT_CLOSED and waited > _SILENCE_LIMIT_SECONDS
    if call.status >= 400:
        return False
    if call.outcome is Outcome.CLIENT_CLOSED and stream_of(call) is None:
        return False  # the client left before it had an event id with which it could resume
    return not session.deletions


def check_addressees(session: SessionRecords) -> Iterator[Violation]:
    """Check that all messages that reach a session carry its owner's marks, and answers the mark of their request."""
    key = session_key(session.id)
    for exchange in session.exchanges:
        for mark in find_marks([exchange.body, [event.message for event in exchange.events]]):
            if mark.owner != session.owner:
                yield Violation(Row.WRONG_SESSION, f"{mark} reached {session.owner}", [exchange])
        for event in exchange.events:
            parsed = EventId.parse(event.id) if event.id is not None else None
            if parsed is not None and not parsed.belongs_to(key):
                description = f"event {event.id} does not belong to {session.id[:8]}"
                yield Violation(Row.WRONG_SESSION, description, [exchange])
    for call in session.calls:
        mark = mark_of(call)
        for answer in session.answers(call):
            strangers = [found for found in find_marks(answer) if mark is not None and found.call != mark.call]
            if strangers or answer.get("id") not in (call.rpc_id, None) or "mismatched" in str(answer):
                yield Violation(Row.WRONG_SESSION, f"{mark} was answered with {answer}", [call])


def check_replies(session: SessionRecords) -> Iterator[Violation]:
    """Check that each acknowledged reply reached the tool that had asked."""
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
        for exchange, event in session.live_events(call):
            _, missed, rest = str((event.message or {}).get("result", "")).partition("unanswered ")
            question = next((each for each in questions if missed and rest.startswith(each)), None)
            reply = replies.get(questions[question]) if question is not None else None
            if reply is None or reply.began is None:
                continue
            if session.undisturbed_seconds(call.process, reply.began, event.at) > DELIVERY_LIMIT_SECONDS:
                description = f"the reply to {question} never arrived"
                yield Violation(Row.REPLIES_LOST, description, [reply, call, exchange])


def check_cancellations(session: SessionRecords) -> Iterator[Violation]:
    """Check that a call whose cancellation was acknowledged does not succeed, unless it was nearly complete."""
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
        for call in filter(session.has_succeeded, waits):
            had_begun = call.began is not None and call.began < exchange.at
            end = call.at + call.arguments["seconds"]
            remaining = session.undisturbed_seconds(call.process, exchange.ended or exchange.at, end)
            margin = _ABORT_MARGIN_SECONDS if exchange.path == "/mcp/abort" else LONG_CALL_SECONDS / 2
            if had_begun and remaining > margin:
                description = f"{mark_of(call)} was cancelled and succeeded"
                yield Violation(Row.CANCELLATIONS_LOST, description, [exchange, call])
