"""Records as the proxy would write them, for tests of the verdict."""

from __future__ import annotations

from typing import Any, Final

from mcp_tornado.sessions import EventId
from mcp_tornado.sessions.ids import session_key
from tests.chaos.records import Exchange, ForwardedEvent, Message, Outcome

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


def log_message(call: int, index: int, count: int = 3) -> Message:
    params = {"level": "info", "data": mark(call, index, count)}
    return {"jsonrpc": "2.0", "method": "notifications/message", "params": params}


def resource_updated(call: int, index: int, count: int = 2) -> Message:
    params = {"uri": f"chaos:///{mark(call, index, count)}"}
    return {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params}


LIST_CHANGED: Final[Message] = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


def question(request_id: str, call: int) -> Message:
    params = {"message": mark(call, 0, 1)}
    return {"jsonrpc": "2.0", "id": request_id, "method": "elicitation/create", "params": params}


class Run:
    """The records of a run with one session."""

    def __init__(self) -> None:
        self.records: list[Exchange] = []
        initialize = {"clientInfo": {"name": mark(0)}}
        self.add_exchange("POST", "/mcp/session", message=initialize, status=201, session=None, new_session=SESSION)

    def add_exchange(self, method: str, path: str = "/mcp", **values: Any) -> Exchange:
        number = len(self.records) + 1
        usual = {"session": SESSION, "status": 200, "outcome": Outcome.COMPLETE, "process": number % 2}
        times = {"at": number, "began": number + 0.1, "ended": number + 0.2}
        exchange = Exchange(number=number, method=method, path=path, **{**usual, **times, **values})
        self.records.append(exchange)
        return exchange

    def add_call(self, tool: str, call: int, path: str = "/mcp", **values: Any) -> Exchange:
        arguments: dict[str, Any] = {"mark": mark(call)}
        if "steps" in values:
            arguments["steps"] = values.pop("steps")
        params = {"name": tool, "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": call, "method": "tools/call", "params": params}
        return self.add_exchange("POST", path, message=message, **values)

    def streamed_answer(self, *events: tuple[int | None, str, Message | None], **values: Any) -> dict[str, Any]:
        """Return the fields of an exchange with a streamed answer.

        Args:
            events: Number, stream and message of each event; an event without a number has no id.
            values: More fields.
        """
        at = float(len(self.records) + 1)
        shown = [
            ForwardedEvent(at, event_id(number, name) if number else None, message) for number, name, message in events
        ]
        return {"streamed": True, "events": shown, **values}

    def find(self, **values: Any) -> Exchange:
        """Return the first exchange whose fields have these values."""
        return next(each for each in self.records if all(getattr(each, name) == values[name] for name in values))


def correct_run() -> Run:
    """Return a run without violations.

    It has a state change, a stream that broke and was resumed, the standalone stream, a background call and a question.
    """
    run = Run()
    run.add_call("remember", 1, body=result(1, mark(1)))
    broken = run.streamed_answer(
        (1, "post-a", None), (2, "post-a", log_message(2, 0)), (3, "post-a", log_message(2, 1)), outcome=Outcome.BROKEN
    )
    run.add_call("report", 2, steps=3, **broken)
    # The connection broke before the client had read the last event.
    resumed = run.streamed_answer(
        (3, "post-a", log_message(2, 1)), (5, "post-a", log_message(2, 2)), (6, "post-a", result(2, mark(2)))
    )
    run.add_exchange("GET", after=event_id(2, "post-a"), **resumed)
    run.add_call("announce", 3, steps=2, body=result(3, mark(3)))
    run.add_exchange(
        "GET",
        **run.streamed_answer(
            (4, "get", resource_updated(3, 0)), (7, "get", resource_updated(3, 1)), outcome=Outcome.CLIENT_CLOSED
        ),
    )
    run.add_call("echo", 4, path="/mcp/send", status=202, body={"accepted": 4})
    received = [
        (4, "get", resource_updated(3, 0)),
        (7, "get", resource_updated(3, 1)),
        (8, "send-b", result(4, mark(4))),
        (12, "get", LIST_CHANGED),
    ]
    run.add_exchange("GET", "/mcp/receive", replay=True, **run.streamed_answer(*received))
    asked = [(9, "post-c", None), (10, "post-c", question("q1", 5)), (11, "post-c", result(5, mark(5)))]
    run.add_call("ask", 5, **run.streamed_answer(*asked))
    run.add_exchange("POST", message={"jsonrpc": "2.0", "id": "q1", "result": {"action": "accept"}}, status=202)
    run.add_exchange("GET", "/mcp/session", body={})
    run.add_call("recall", 6, body=result(6, f"{OWNER}/00000001"))
    return run
