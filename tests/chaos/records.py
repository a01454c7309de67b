"""The records of the proxy: every request, and every event of every stream that it forwarded."""

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
    CLIENT_CLOSED = "closed by the client"
    REFUSED = "refused by all processes"


@dataclass(frozen=True, slots=True)
class Outage:
    """A period in which a process was stopped or the store was unreachable; `process` is `None` for the store."""

    process: int | None
    start: float
    end: float


@dataclass(slots=True)
class ForwardedEvent:
    """An event that the proxy forwarded. A priming event has no message; an event that is not logged has no id."""

    at: float
    id: str | None
    message: Message | None


@dataclass(slots=True)
class Exchange:
    """A request and its answer. Times are seconds since the proxy started."""

    number: int
    at: float
    """When the request had arrived."""
    method: str
    path: str
    session: str | None = None
    """The session id in the request's header."""
    after: str | None = None
    """The event id after which the client resumes."""
    message: Any = None
    """The JSON of the request's body."""
    replay: bool = False
    """Whether the request only reads again what was read before, as the audit does."""
    process: int | None = None
    """The process that answered, or that took the request and broke the connection."""
    skipped_processes: list[int] = field(default_factory=list[int])
    """The processes that refused the connection, or refused the request because they were draining."""
    status: int | None = None
    """The HTTP status; `None` if no byte of an answer arrived."""
    streamed: bool = False
    """Whether the answer is an event stream."""
    new_session: str | None = None
    """The session id in the answer's header."""
    body: Any = None
    """The JSON of an answer that is no stream; its text if it is not JSON."""
    events: list[ForwardedEvent] = field(default_factory=list[ForwardedEvent])
    """The events of a stream, or those that a poll of `/mcp/receive` returned."""
    began: float | None = None
    """When the first byte of the answer arrived."""
    ended: float | None = None
    """When the exchange was over; `None` while it runs."""
    outcome: Outcome = Outcome.OPEN

    @property
    def rpc_method(self) -> str | None:
        """The method of the JSON-RPC message in the request."""
        return self.message.get("method") if isinstance(self.message, dict) else None

    @property
    def rpc_id(self) -> str | int | None:
        """The id of the JSON-RPC message in the request."""
        return self.message.get("id") if isinstance(self.message, dict) else None

    @property
    def is_call(self) -> bool:
        """Whether the message is a JSON-RPC request, which must be answered."""
        return self.method == "POST" and self.rpc_method is not None and self.rpc_id is not None

    @property
    def tool(self) -> str | None:
        """The name of the called tool."""
        return self.message["params"]["name"] if self.is_call and self.rpc_method == "tools/call" else None

    @property
    def arguments(self) -> Message:
        """The arguments of the called tool."""
        return self.message["params"]["arguments"] if self.tool is not None else {}

    @property
    def error_code(self) -> str | None:
        """The symbolic code of an answer that is an error of mcp-tornado."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        data = error.get("data") if isinstance(error, dict) else None
        return data.get("code") if isinstance(data, dict) else None

    def __str__(self) -> str:
        parties = f"{(self.session or '-')[:8]} at {'-' if self.process is None else self.process}"
        skipped = f", skipped {self.skipped_processes}" if self.skipped_processes else ""
        after = f", after {self.after}" if self.after else ""
        sent = f", sent {self.message}" if self.message is not None else ""
        got = f", got {self.body}" if self.body is not None else ""
        ended = f"{self.ended:.2f}" if self.ended is not None else "…"
        events = "".join(f"\n        {event.at:.2f} {event.id} {event.message}" for event in self.events)
        return (
            f"#{self.number} {self.at:.2f}-{ended} {self.method} {self.path} {self.status} ({self.outcome}) "
            f"session {parties}{skipped}{after}{sent}{got}{events}"
        )


def is_response(message: Message | None) -> bool:
    """Return whether a message is the answer to a request."""
    return message is not None and "method" not in message and ("result" in message or "error" in message)


def is_success(message: Message | None) -> bool:
    """Return whether a message is an answer whose result is no error."""
    return message is not None and "result" in message and message["result"].get("isError") is not True
