"""The verdict finds every kind of violation: each test changes the records of a correct run in one way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.check_answers import LONG_CALL_SECONDS
from tests.chaos.ledger import judge
from tests.chaos.marks import find_marks
from tests.chaos.recorded_run import (
    LIST_CHANGED,
    OWNER,
    STRANGER,
    Run,
    correct_run,
    error,
    event_id,
    log_message,
    mark,
    resource_updated,
    result,
)
from tests.chaos.records import ForwardedEvent, Outage, Outcome
from tests.chaos.violations import Row, Violation


@pytest.fixture
def run() -> Run:
    """A run without violations."""
    return correct_run()


def rows(violations: list[Violation]) -> set[Row]:
    return {violation.row for violation in violations}


def test_a_correct_run_has_no_violation(run: Run) -> None:
    assert judge(run.records, processes=2) == []


def lose_session(run: Run) -> None:
    body = {"error": {"code": -32600, "data": {"code": "SESSION_NOT_FOUND"}}}
    run.add_exchange("POST", message={"method": "ping", "id": 9}, status=404, body=body)


def fail_audit(run: Run) -> None:
    run.find(path="/mcp/session", method="GET").status = 503


def lose_state(run: Run) -> None:
    run.records[-1].body = result(6, "")


def skip_state_audit(run: Run) -> None:
    del run.records[-1]


def change_state_twice(run: Run) -> None:
    run.records[-1].body = result(6, f"{OWNER}/00000001 {OWNER}/00000001")


def add_foreign_mark_to_state(run: Run) -> None:
    run.records[-1].body = result(6, f"{OWNER}/00000001 {STRANGER}/00000001")


def drop_event_on_resume(run: Run) -> None:
    del run.find(after=event_id(2, "post-a")).events[0]


def drop_last_numbered_event(run: Run) -> None:
    del run.find(after=event_id(2, "post-a")).events[1]


def drop_standalone_event_everywhere(run: Run) -> None:
    for each in run.records:
        each.events = [event for event in each.events if event.message != resource_updated(3, 1)]


def drop_event_of_standalone_connection(run: Run) -> None:
    del run.find(method="GET", path="/mcp", after=None).events[0]


def drop_event_in_receive(run: Run) -> None:
    del run.find(path="/mcp/receive").events[1]


def repeat_event_on_one_connection(run: Run) -> None:
    events = run.find(after=event_id(2, "post-a")).events
    events.insert(1, events[0])


def repeat_acknowledged_event(run: Run) -> None:
    resumed = run.find(after=event_id(2, "post-a"))
    resumed.events.insert(0, run.find(tool="report").events[1])


def log_message_twice(run: Run) -> None:
    run.find(after=event_id(2, "post-a")).events.insert(
        1, ForwardedEvent(4.0, event_id(4, "post-a"), log_message(2, 1))
    )


def repeat_event_without_id(run: Run) -> None:
    """The log stored the event, but the process counted the append as failed and sent the event without an id."""
    run.find(tool="report").events[2].id = None


def swap_events(run: Run) -> None:
    events = run.find(after=event_id(2, "post-a")).events
    events[0], events[1] = events[1], events[0]


def swap_indices(run: Run) -> None:
    run.find(tool="report").events[1].message = log_message(2, 1)
    run.find(tool="report").events[2].message = log_message(2, 0)
    run.find(after=event_id(2, "post-a")).events[0].message = log_message(2, 0)


def change_event(run: Run) -> None:
    run.find(after=event_id(2, "post-a")).events[0].message = log_message(2, 1, count=4)


def drop_streamed_answer(run: Run) -> None:
    del run.find(after=event_id(2, "post-a")).events[-1]


def break_stream_after_head(run: Run) -> None:
    run.add_call("echo", 20, streamed=True, outcome=Outcome.BROKEN)


def break_json_answer(run: Run) -> None:
    run.add_call("echo", 20, outcome=Outcome.BROKEN)


def accept_request_without_answer(run: Run) -> None:
    run.add_call("echo", 20, status=202)


def stay_silent(run: Run) -> None:
    run.add_call("echo", 20, status=None, outcome=Outcome.CLIENT_CLOSED, ended=100.0)


def never_end_exchange(run: Run) -> None:
    run.add_call("echo", 20, status=None, outcome=Outcome.OPEN, ended=None)


def drop_list_changed(run: Run) -> None:
    del run.find(path="/mcp/receive").events[-1]


def repeat_list_changed(run: Run) -> None:
    run.find(path="/mcp/receive").events.append(ForwardedEvent(9.0, event_id(13, "get"), LIST_CHANGED))


def drop_background_answer(run: Run) -> None:
    del run.find(path="/mcp/receive").events[-2:]


def repeat_background_answer(run: Run) -> None:
    run.find(path="/mcp/receive").events.append(ForwardedEvent(9.0, event_id(13, "send-b"), error(4)))


def repeat_streamed_answer(run: Run) -> None:
    run.find(after=event_id(2, "post-a")).events.append(ForwardedEvent(9.0, event_id(13, "post-a"), error(2)))


def answer_with_foreign_mark(run: Run) -> None:
    run.find(tool="remember").body = result(1, mark(1, owner=STRANGER))


def answer_with_mark_of_other_call(run: Run) -> None:
    run.find(tool="remember").body = result(1, mark(7))


def answer_with_id_of_other_request(run: Run) -> None:
    run.find(tool="remember").body = result(7, mark(1))


def send_event_of_other_session(run: Run) -> None:
    run.find(after=event_id(2, "post-a")).events[0].id = event_id(3, "post-a", session="t" * 43)


def send_event_of_other_stream(run: Run) -> None:
    run.find(tool="ask").events[1].id = event_id(10, "post-z")


def deliver_wrong_reply(run: Run) -> None:
    run.find(tool="ask").events[-1].message = {**result(5, "mismatched"), "id": 5}


def lose_reply(run: Run) -> None:
    asked = run.find(tool="ask")
    asked.events[-1] = ForwardedEvent(30.0, event_id(11, "post-c"), result(5, f"unanswered {mark(5, 0, 1)}"))


def serve_ended_session(run: Run) -> None:
    run.add_exchange("DELETE", status=204)
    run.add_exchange("GET", "/mcp/session", body={})


def keep_stream_of_ended_session(run: Run) -> None:
    run.add_exchange("GET", **run.streamed_answer(outcome=Outcome.CLIENT_CLOSED, ended=100.0))
    run.add_exchange("DELETE", status=204)


def drop_event_of_open_stream(run: Run) -> None:
    run.find(method="GET", path="/mcp", after=None).ended = 100.0
    run.add_call("announce", 21, steps=1, body=result(21, mark(21)))
    listed = [(13, "get", resource_updated(21, 0, 1)), (14, "get", LIST_CHANGED)]
    run.add_exchange("GET", after=event_id(12, "get"), replay=True, **run.streamed_answer(*listed))


def ignore_cancellation(run: Run) -> None:
    call = run.add_call("wait", 21, body=result(21, mark(21)))
    call.message["params"]["arguments"]["seconds"] = LONG_CALL_SECONDS
    params = {"requestId": 21}
    run.add_exchange(
        "POST", message={"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}, status=202
    )


def ignore_abort(run: Run) -> None:
    call = run.add_call("wait", 21, path="/mcp/send", status=202, body={"accepted": 21})
    call.message["params"]["arguments"]["seconds"] = 5.0
    run.add_exchange("POST", "/mcp/abort", message={"requestId": 21}, status=202)
    answered = [(14, "send-d", result(21, mark(21)))]
    run.add_exchange("GET", "/mcp/receive", after=event_id(13, "get"), replay=True, **run.streamed_answer(*answered))


def fail_with_internal_error(run: Run) -> None:
    run.add_exchange("GET", "/mcp/session", status=500)
    run.add_exchange("GET", "/mcp/session", body={})


def serve_by_one_process(run: Run) -> None:
    for _ in range(30):
        run.add_exchange("GET", "/mcp/session", body={})
    for each in run.records:
        each.process = 0


@pytest.mark.parametrize(
    ("break_guarantee", "row"),
    [
        (lose_session, Row.SESSIONS_LOST),
        (fail_audit, Row.SESSIONS_LOST),
        (lose_state, Row.STATE_LOST),
        (skip_state_audit, Row.STATE_LOST),
        (change_state_twice, Row.STATE_TWICE),
        (add_foreign_mark_to_state, Row.WRONG_SESSION),
        (drop_event_on_resume, Row.EVENTS_LOST),
        (drop_last_numbered_event, Row.EVENTS_LOST),
        (drop_standalone_event_everywhere, Row.EVENTS_LOST),
        (drop_event_of_standalone_connection, Row.EVENTS_LOST),
        (drop_event_in_receive, Row.EVENTS_LOST),
        (repeat_event_on_one_connection, Row.EVENTS_TWICE),
        (repeat_acknowledged_event, Row.EVENTS_TWICE),
        (log_message_twice, Row.EVENTS_TWICE),
        (repeat_event_without_id, Row.EVENTS_TWICE),
        (swap_events, Row.OUT_OF_ORDER),
        (swap_indices, Row.OUT_OF_ORDER),
        (drop_list_changed, Row.EVENTS_LOST),
        (repeat_list_changed, Row.EVENTS_TWICE),
        (change_event, Row.EVENTS_LOST),
        (drop_streamed_answer, Row.UNANSWERED),
        (break_stream_after_head, Row.UNANSWERED),
        (break_json_answer, Row.UNANSWERED),
        (accept_request_without_answer, Row.UNANSWERED),
        (stay_silent, Row.UNANSWERED),
        (never_end_exchange, Row.UNANSWERED),
        (drop_background_answer, Row.UNANSWERED),
        (repeat_background_answer, Row.ANSWERED_TWICE),
        (repeat_streamed_answer, Row.ANSWERED_TWICE),
        (answer_with_foreign_mark, Row.WRONG_SESSION),
        (answer_with_mark_of_other_call, Row.WRONG_SESSION),
        (answer_with_id_of_other_request, Row.WRONG_SESSION),
        (send_event_of_other_session, Row.WRONG_SESSION),
        (send_event_of_other_stream, Row.WRONG_SESSION),
        (deliver_wrong_reply, Row.WRONG_SESSION),
        (lose_reply, Row.REPLIES_LOST),
        (serve_ended_session, Row.RESURRECTED),
        (keep_stream_of_ended_session, Row.RESURRECTED),
        (drop_event_of_open_stream, Row.EVENTS_LOST),
        (ignore_cancellation, Row.CANCELLATIONS_LOST),
        (ignore_abort, Row.CANCELLATIONS_LOST),
        (fail_with_internal_error, Row.INTERNAL),
        (serve_by_one_process, Row.NOT_SPREAD),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_violation_is_found(run: Run, break_guarantee: Callable[[Run], None], row: Row) -> None:
    break_guarantee(run)
    assert row in rows(judge(run.records, processes=2))


def test_a_connection_that_breaks_before_any_byte_is_no_violation(run: Run) -> None:
    run.add_call("report", 20, steps=3, status=None, outcome=Outcome.BROKEN)
    run.add_call("remember", 21, status=None, outcome=Outcome.BROKEN)
    assert judge(run.records, processes=2) == []


@pytest.mark.parametrize("concurrent", [True, False])
def test_concurrent_calls_may_share_one_list_changed_notification(run: Run, concurrent: bool) -> None:
    state_audit = run.records.pop()
    first = run.add_call("announce", 21, steps=0, body=result(21, mark(21)))
    second = run.add_call("announce", 22, steps=0, body=result(22, mark(22)))
    if concurrent:
        first.ended = second.ended
    listed = [(13, "get", LIST_CHANGED)]
    run.add_exchange("GET", after=event_id(12, "get"), replay=True, **run.streamed_answer(*listed))
    run.records.append(state_audit)
    assert rows(judge(run.records, processes=2)) == (set() if concurrent else {Row.EVENTS_LOST})


def test_a_change_without_acknowledgement_may_be_in_the_state(run: Run) -> None:
    run.add_call("remember", 7, status=None, outcome=Outcome.BROKEN)
    run.add_call("recall", 8, body=result(8, f"{OWNER}/00000001 {OWNER}/00000007"))
    assert judge(run.records, processes=2) == []


def test_a_call_whose_process_died_may_send_fewer_messages(run: Run) -> None:
    events = run.find(after=event_id(2, "post-a")).events
    events[1:] = [ForwardedEvent(9.0, event_id(6, "post-a"), error(2))]
    assert judge(run.records, processes=2) == []


@pytest.mark.parametrize("process", [1, None])
def test_a_reply_may_wait_during_an_outage(run: Run, process: int | None) -> None:
    lose_reply(run)
    assert judge(run.records, [Outage(process, 12.0, 28.0)], processes=2) == []
    assert rows(judge(run.records, [Outage(0, 12.0, 28.0)], processes=2)) == {Row.REPLIES_LOST}


def test_a_client_may_end_its_session(run: Run) -> None:
    del run.records[-2:]
    drop_streamed_answer(run)
    run.add_exchange("DELETE", status=204)
    body = {"error": {"code": -32600, "data": {"code": "SESSION_NOT_FOUND"}}}
    run.add_call("echo", 30, status=404, body=body)
    assert judge(run.records, processes=2) == []


def test_marks_are_found_at_any_place() -> None:
    found = find_marks({"a": [f"x {mark(1)} y"], mark(2, 3, 4): None})
    assert [(each.owner, each.call, each.index, each.count) for each in found] == [
        (OWNER, "00000001", None, None),
        (OWNER, "00000002", 3, 4),
    ]
