"""The verdict sees every kind of fault: records of a good run are changed in one way at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

from mcp_tornado.sessions import EventId
from mcp_tornado.sessions.ids import session_key
from tests.chaos.check_answers import LONG_CALL
from tests.chaos.faults import Fault, Row
from tests.chaos.ledger import judge
from tests.chaos.marks import marks_in
from tests.chaos.records import Exchange, Message, Outcome, Passed, Pause

SESSION: Final = "s" * 43
OWNER: Final = "0000000a"
STRANGER: Final = "0000000b"


def mark(call: int, index: int | None = None, count: int = 3, owner: str = OWNER) -> str:
    number = "" if index is None else f".{index}/{count}"
    return f"~{owner}.{call:08x}{number}"


def event_id(number: int, stream: str, session: str = SESSION) -> str:
    return str(EventId.of(number, session_key(session), stream))


def result(request_id: str | int, text: str) -> Message:
    return {"jsonrpc": "2.0", "id": request_id, "result": {"content": [{"type": "text", "text": text}]}}


def error(request_id: str | int, code: int = -32000) -> Message:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": "lost"}}


def say(call: int, index: int, count: int = 3) -> Message:
    params = {"level": "info", "data": mark(call, index, count)}
    return {"jsonrpc": "2.0", "method": "notifications/message", "params": params}


def update(call: int, index: int, count: int = 2) -> Message:
    params = {"uri": f"chaos:///{mark(call, index, count)}"}
    return {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params}


LIST_CHANGED: Final[Message] = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


def question(request_id: str, call: int) -> Message:
    params = {"message": mark(call, 0, 1)}
    return {"jsonrpc": "2.0", "id": request_id, "method": "elicitation/create", "params": params}


class Run:
    """A run of one session, as the proxy would have recorded it."""

    def __init__(self) -> None:
        self.records: list[Exchange] = []
        initialize = {"clientInfo": {"name": mark(0)}}
        self.add("POST", "/mcp/session", message=initialize, status=201, session=None, new_session=SESSION)

    def add(self, method: str, path: str = "/mcp", **values: Any) -> Exchange:
        number = len(self.records) + 1
        usual = {"session": SESSION, "status": 200, "outcome": Outcome.COMPLETE, "process": number % 2}
        times = {"at": number, "began": number + 0.1, "ended": number + 0.2}
        exchange = Exchange(number=number, method=method, path=path, **{**usual, **times, **values})
        self.records.append(exchange)
        return exchange

    def call(self, tool: str, call: int, path: str = "/mcp", **values: Any) -> Exchange:
        arguments: dict[str, Any] = {"mark": mark(call)}
        if "steps" in values:
            arguments["steps"] = values.pop("steps")
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": call, "method": "tools/call", "params": params}
        return self.add("POST", path, message=message, **values)

    def stream(self, *events: tuple[int | None, str, Message | None], **values: Any) -> dict[str, Any]:
        """Return what a streamed answer has besides the request: events as number, stream and message."""
        at = float(len(self.records) + 1)
        shown = [Passed(at, event_id(number, name) if number else None, message) for number, name, message in events]
        return {"streamed": True, "events": shown, **values}

    def find(self, **values: Any) -> Exchange:
        return next(each for each in self.records if all(getattr(each, name) == it for name, it in values.items()))


@pytest.fixture
def run() -> Run:
    """A good run: state, a stream that broke and was resumed, the standalone stream, background work, a question."""
    run = Run()
    run.call("remember", 1, body=result(1, mark(1)))
    broken = run.stream((1, "post-a", None), (2, "post-a", say(2, 0)), (3, "post-a", say(2, 1)), outcome=Outcome.BROKEN)
    run.call("report", 2, steps=3, **broken)
    # The client had not read the last event when the connection broke.
    resumed = run.stream((3, "post-a", say(2, 1)), (5, "post-a", say(2, 2)), (6, "post-a", result(2, mark(2))))
    run.add("GET", after=event_id(2, "post-a"), **resumed)
    run.call("announce", 3, steps=2, body=result(3, mark(3)))
    run.add("GET", **run.stream((4, "get", update(3, 0)), (7, "get", update(3, 1)), outcome=Outcome.HUNG_UP))
    run.call("echo", 4, path="/mcp/send", status=202, body={"accepted": 4})
    received = [
        (4, "get", update(3, 0)),
        (7, "get", update(3, 1)),
        (8, "send-b", result(4, mark(4))),
        (12, "get", LIST_CHANGED),
    ]
    run.add("GET", "/mcp/receive", replay=True, **run.stream(*received))
    asked = [(9, "post-c", None), (10, "post-c", question("q1", 5)), (11, "post-c", result(5, mark(5)))]
    run.call("ask", 5, **run.stream(*asked))
    run.add("POST", message={"jsonrpc": "2.0", "id": "q1", "result": {"action": "accept"}}, status=202)
    run.add("GET", "/mcp/session", body={})
    run.call("recall", 6, body=result(6, f"{OWNER}/00000001"))
    return run


def rows(faults: list[Fault]) -> set[Row]:
    return {fault.row for fault in faults}


def test_a_good_run_has_no_fault(run: Run) -> None:
    assert judge(run.records, processes=2) == []


def forget_session(run: Run) -> None:
    body = {"error": {"code": -32600, "data": {"code": "SESSION_NOT_FOUND"}}}
    run.add("POST", message={"method": "ping", "id": 9}, status=404, body=body)


def fail_audit(run: Run) -> None:
    run.find(path="/mcp/session", method="GET").status = 503


def forget_state(run: Run) -> None:
    run.records[-1].body = result(6, "")


def never_look_at_state(run: Run) -> None:
    del run.records[-1]


def change_state_twice(run: Run) -> None:
    run.records[-1].body = result(6, f"{OWNER}/00000001 {OWNER}/00000001")


def mix_state(run: Run) -> None:
    run.records[-1].body = result(6, f"{OWNER}/00000001 {STRANGER}/00000001")


def skip_event_on_resume(run: Run) -> None:
    del run.find(after=event_id(2, "post-a")).events[0]


def skip_last_of_numbered(run: Run) -> None:
    del run.find(after=event_id(2, "post-a")).events[1]


def skip_standalone(run: Run) -> None:
    for each in run.records:
        each.events = [event for event in each.events if event.message != update(3, 1)]


def skip_on_standalone_connection(run: Run) -> None:
    del run.find(method="GET", path="/mcp", after=None).events[0]


def skip_in_receive(run: Run) -> None:
    del run.find(path="/mcp/receive").events[1]


def repeat_in_one_connection(run: Run) -> None:
    events = run.find(after=event_id(2, "post-a")).events
    events.insert(1, events[0])


def repeat_what_was_acknowledged(run: Run) -> None:
    resumed = run.find(after=event_id(2, "post-a"))
    resumed.events.insert(0, run.find(tool="report").events[1])


def log_twice(run: Run) -> None:
    run.find(after=event_id(2, "post-a")).events.insert(1, Passed(4.0, event_id(4, "post-a"), say(2, 1)))


def repeat_what_had_no_id(run: Run) -> None:
    """The log took the event after all, though the process thought that it did not."""
    run.find(tool="report").events[2].id = None


def swap(run: Run) -> None:
    events = run.find(after=event_id(2, "post-a")).events
    events[0], events[1] = events[1], events[0]


def swap_numbers(run: Run) -> None:
    run.find(tool="report").events[1].message = say(2, 1)
    run.find(tool="report").events[2].message = say(2, 0)
    run.find(after=event_id(2, "post-a")).events[0].message = say(2, 0)


def change_event(run: Run) -> None:
    run.find(after=event_id(2, "post-a")).events[0].message = say(2, 1, count=4)


def never_answer_stream(run: Run) -> None:
    del run.find(after=event_id(2, "post-a")).events[-1]


def break_after_head(run: Run) -> None:
    run.call("echo", 20, streamed=True, outcome=Outcome.BROKEN)


def break_in_json(run: Run) -> None:
    run.call("echo", 20, outcome=Outcome.BROKEN)


def accept_request_for_good(run: Run) -> None:
    run.call("echo", 20, status=202)


def hang(run: Run) -> None:
    run.call("echo", 20, status=None, outcome=Outcome.HUNG_UP, ended=100.0)


def never_end(run: Run) -> None:
    run.call("echo", 20, status=None, outcome=Outcome.OPEN, ended=None)


def skip_list_changed(run: Run) -> None:
    del run.find(path="/mcp/receive").events[-1]


def list_changed_twice(run: Run) -> None:
    run.find(path="/mcp/receive").events.append(Passed(9.0, event_id(13, "get"), LIST_CHANGED))


def never_answer_background(run: Run) -> None:
    del run.find(path="/mcp/receive").events[-2:]


def answer_background_twice(run: Run) -> None:
    run.find(path="/mcp/receive").events.append(Passed(9.0, event_id(13, "send-b"), error(4)))


def answer_stream_twice(run: Run) -> None:
    run.find(after=event_id(2, "post-a")).events.append(Passed(9.0, event_id(13, "post-a"), error(2)))


def answer_stranger(run: Run) -> None:
    run.find(tool="remember").body = result(1, mark(1, owner=STRANGER))


def answer_other_call(run: Run) -> None:
    run.find(tool="remember").body = result(1, mark(7))


def answer_other_request(run: Run) -> None:
    run.find(tool="remember").body = result(7, mark(1))


def send_event_of_stranger(run: Run) -> None:
    run.find(after=event_id(2, "post-a")).events[0].id = event_id(3, "post-a", session="t" * 43)


def send_event_of_other_stream(run: Run) -> None:
    run.find(tool="ask").events[1].id = event_id(10, "post-z")


def mismatch_reply(run: Run) -> None:
    run.find(tool="ask").events[-1].message = {**result(5, "mismatched"), "id": 5}


def lose_reply(run: Run) -> None:
    asked = run.find(tool="ask")
    asked.events[-1] = Passed(30.0, event_id(11, "post-c"), result(5, f"unanswered {mark(5, 0, 1)}"))


def come_back(run: Run) -> None:
    run.add("DELETE", status=204)
    run.add("GET", "/mcp/session", body={})


def outlive_session(run: Run) -> None:
    run.add("GET", **run.stream(outcome=Outcome.HUNG_UP, ended=100.0))
    run.add("DELETE", status=204)


def never_tell_who_listens(run: Run) -> None:
    run.find(method="GET", path="/mcp", after=None).ended = 100.0
    run.call("announce", 21, steps=1, body=result(21, mark(21)))
    listed = [(13, "get", update(21, 0, 1)), (14, "get", LIST_CHANGED)]
    run.add("GET", after=event_id(12, "get"), replay=True, **run.stream(*listed))


def ignore_cancellation(run: Run) -> None:
    call = run.call("wait", 21, body=result(21, mark(21)))
    call.message["params"]["arguments"]["seconds"] = LONG_CALL
    params = {"requestId": 21}
    run.add("POST", message={"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}, status=202)


def ignore_abort(run: Run) -> None:
    call = run.call("wait", 21, path="/mcp/send", status=202, body={"accepted": 21})
    call.message["params"]["arguments"]["seconds"] = 5.0
    run.add("POST", "/mcp/abort", message={"requestId": 21}, status=202)
    answered = [(14, "send-d", result(21, mark(21)))]
    run.add("GET", "/mcp/receive", after=event_id(13, "get"), replay=True, **run.stream(*answered))


def fail_inside(run: Run) -> None:
    run.add("GET", "/mcp/session", status=500)
    run.add("GET", "/mcp/session", body={})


def serve_alone(run: Run) -> None:
    for _ in range(30):
        run.add("GET", "/mcp/session", body={})
    for each in run.records:
        each.process = 0


@pytest.mark.parametrize(
    ("spoil", "row"),
    [
        (forget_session, Row.SESSIONS_LOST),
        (fail_audit, Row.SESSIONS_LOST),
        (forget_state, Row.STATE_LOST),
        (never_look_at_state, Row.STATE_LOST),
        (change_state_twice, Row.STATE_TWICE),
        (mix_state, Row.WRONG_SESSION),
        (skip_event_on_resume, Row.EVENTS_LOST),
        (skip_last_of_numbered, Row.EVENTS_LOST),
        (skip_standalone, Row.EVENTS_LOST),
        (skip_on_standalone_connection, Row.EVENTS_LOST),
        (skip_in_receive, Row.EVENTS_LOST),
        (repeat_in_one_connection, Row.EVENTS_TWICE),
        (repeat_what_was_acknowledged, Row.EVENTS_TWICE),
        (log_twice, Row.EVENTS_TWICE),
        (repeat_what_had_no_id, Row.EVENTS_TWICE),
        (swap, Row.OUT_OF_ORDER),
        (swap_numbers, Row.OUT_OF_ORDER),
        (skip_list_changed, Row.EVENTS_LOST),
        (list_changed_twice, Row.EVENTS_TWICE),
        (change_event, Row.EVENTS_LOST),
        (never_answer_stream, Row.UNANSWERED),
        (break_after_head, Row.UNANSWERED),
        (break_in_json, Row.UNANSWERED),
        (accept_request_for_good, Row.UNANSWERED),
        (hang, Row.UNANSWERED),
        (never_end, Row.UNANSWERED),
        (never_answer_background, Row.UNANSWERED),
        (answer_background_twice, Row.ANSWERED_TWICE),
        (answer_stream_twice, Row.ANSWERED_TWICE),
        (answer_stranger, Row.WRONG_SESSION),
        (answer_other_call, Row.WRONG_SESSION),
        (answer_other_request, Row.WRONG_SESSION),
        (send_event_of_stranger, Row.WRONG_SESSION),
        (send_event_of_other_stream, Row.WRONG_SESSION),
        (mismatch_reply, Row.WRONG_SESSION),
        (lose_reply, Row.REPLIES_LOST),
        (come_back, Row.RESURRECTED),
        (outlive_session, Row.RESURRECTED),
        (never_tell_who_listens, Row.EVENTS_LOST),
        (ignore_cancellation, Row.CANCELLATIONS_LOST),
        (ignore_abort, Row.CANCELLATIONS_LOST),
        (fail_inside, Row.INTERNAL),
        (serve_alone, Row.NOT_SPREAD),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_fault_is_seen(run: Run, spoil: Callable[[Run], None], row: Row) -> None:
    spoil(run)
    assert row in rows(judge(run.records, processes=2))


def test_a_connection_that_broke_before_any_byte_is_no_fault(run: Run) -> None:
    run.call("report", 20, steps=3, status=None, outcome=Outcome.BROKEN)
    run.call("remember", 21, status=None, outcome=Outcome.BROKEN)
    assert judge(run.records, processes=2) == []


@pytest.mark.parametrize("at_the_same_time", [True, False])
def test_calls_at_the_same_time_may_say_together_that_a_list_has_changed(run: Run, at_the_same_time: bool) -> None:
    look = run.records.pop()
    first = run.call("announce", 21, steps=0, body=result(21, mark(21)))
    second = run.call("announce", 22, steps=0, body=result(22, mark(22)))
    if at_the_same_time:
        first.ended = second.ended
    listed = [(13, "get", LIST_CHANGED)]
    run.add("GET", after=event_id(12, "get"), replay=True, **run.stream(*listed))
    run.records.append(look)
    assert rows(judge(run.records, processes=2)) == (set() if at_the_same_time else {Row.EVENTS_LOST})


def test_what_was_not_acknowledged_may_have_been_done(run: Run) -> None:
    run.call("remember", 7, status=None, outcome=Outcome.BROKEN)
    run.call("recall", 8, body=result(8, f"{OWNER}/00000001 {OWNER}/00000007"))
    assert judge(run.records, processes=2) == []


def test_a_call_whose_process_died_says_what_it_said_before(run: Run) -> None:
    events = run.find(after=event_id(2, "post-a")).events
    events[1:] = [Passed(9.0, event_id(6, "post-a"), error(2))]
    assert judge(run.records, processes=2) == []


@pytest.mark.parametrize("process", [1, None])
def test_nothing_arrives_while_a_process_or_the_store_is_away(run: Run, process: int | None) -> None:
    lose_reply(run)
    assert judge(run.records, [Pause(process, 12.0, 28.0)], processes=2) == []
    assert rows(judge(run.records, [Pause(0, 12.0, 28.0)], processes=2)) == {Row.REPLIES_LOST}


def test_a_session_may_be_ended(run: Run) -> None:
    del run.records[-2:]
    never_answer_stream(run)
    run.add("DELETE", status=204)
    body = {"error": {"code": -32600, "data": {"code": "SESSION_NOT_FOUND"}}}
    run.call("echo", 30, status=404, body=body)
    assert judge(run.records, processes=2) == []


def test_marks_are_found_anywhere() -> None:
    found = marks_in({"a": [f"x {mark(1)} y"], mark(2, 3, 4): None})
    assert [(each.owner, each.call, each.index, each.count) for each in found] == [
        (OWNER, "00000001", None, None),
        (OWNER, "00000002", 3, 4),
    ]
