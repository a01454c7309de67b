"""What the proxy writes down: every request, and every event of every stream that went through."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Message = dict[str, Any]


class Outcome(StrEnum):
    """How an exchange ended."""

    OPEN = "open"
    COMPLETE = "complete"
    BROKEN = "broken by the process"
    HUNG_UP = "hung up by the client"
    REFUSED = "refused by all processes"


@dataclass(frozen=True, slots=True)
class Pause:
    """A time in which a process was stopped, or the store was away; `process` is `None` for the store."""

    process: int | None
    start: float
    end: float


@dataclass(slots=True)
class Passed:
    """An event that went through; a priming event has no message, and one that is not logged has no id."""

    at: float
    id: str | None
    message: Message | None


@dataclass(slots=True)
class Exchange:
    """A request and its answer. Times are seconds since the proxy began."""

    number: int
    at: float
    method: str
    path: str
    session: str | None = None
    """The session id in the request's header."""
    after: str | None = None
    """The event id that the client goes on after."""
    message: Any = None
    """The JSON of the request's body."""
    replay: bool = False
    """Whether this only looks up again what went before, and is nobody's way to go on."""
    process: int | None = None
    """Which process answered, or took the request and broke the connection."""
    passed_over: list[int] = field(default_factory=list[int])
    """The processes that refused the connection, or the request because they are draining."""
    status: int | None = None
    """The HTTP status; `None` where no byte of an answer came."""
    streamed: bool = False
    """Whether the answer is an event stream."""
    new_session: str | None = None
    """The session id in the answer's header."""
    body: Any = None
    """The JSON of an answer that is no stream; the text of one that is no JSON either."""
    events: list[Passed] = field(default_factory=list[Passed])
    """What a stream passed, or a poll of `/mcp/receive` returned."""
    began: float | None = None
    """When the first byte of the answer came."""
    ended: float | None = None
    outcome: Outcome = Outcome.OPEN

    @property
    def rpc_method(self) -> str | None:
        """The method of the JSON-RPC message that was sent."""
        return self.message.get("method") if isinstance(self.message, dict) else None

    @property
    def rpc_id(self) -> str | int | None:
        return self.message.get("id") if isinstance(self.message, dict) else None

    @property
    def is_call(self) -> bool:
        """Whether a JSON-RPC request was sent, which is owed an answer."""
        return self.method == "POST" and self.rpc_method is not None and self.rpc_id is not None

    @property
    def tool(self) -> str | None:
        """The tool that is called."""
        return self.message["params"]["name"] if self.is_call and self.rpc_method == "tools/call" else None

    @property
    def arguments(self) -> Message:
        """The arguments of the tool that is called."""
        return self.message["params"]["arguments"] if self.tool is not None else {}

    @property
    def error_code(self) -> str | None:
        """The symbolic code of an answer that is an error of the server's."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        data = error.get("data") if isinstance(error, dict) else None
        return data.get("code") if isinstance(data, dict) else None

    def __str__(self) -> str:
        who = f"{(self.session or '-')[:8]} at {'-' if self.process is None else self.process}"
        over = f", passed over {self.passed_over}" if self.passed_over else ""
        after = f", after {self.after}" if self.after else ""
        sent = f", sent {self.message}" if self.message is not None else ""
        got = f", got {self.body}" if self.body is not None else ""
        ended = f"{self.ended:.2f}" if self.ended is not None else "…"
        shown = "".join(f"\n        {event.at:.2f} {event.id} {event.message}" for event in self.events)
        return (
            f"#{self.number} {self.at:.2f}-{ended} {self.method} {self.path} {self.status} ({self.outcome}) "
            f"session {who}{over}{after}{sent}{got}{shown}"
        )


def is_response(message: Message | None) -> bool:
    """Say whether a message answers a request."""
    return message is not None and "method" not in message and ("result" in message or "error" in message)


def succeeded(message: Message | None) -> bool:
    """Say whether a message is an answer with a result that is no error."""
    return message is not None and "result" in message and message["result"].get("isError") is not True
