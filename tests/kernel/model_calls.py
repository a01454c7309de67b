"""Calls of a scripted tool, and what their clients must and must not receive of them.

Every message that a call sends has the call's number and its own index. So a message that is lost, repeated, out of
order or on the wrong stream is found when it arrives.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    TextContent,
)

from mcp_tornado.jsonrpc import CALL_LOST, REQUEST_CANCELLED
from mcp_tornado.sessions import EventId
from mcp_tornado.streams.frames import Frame
from mcp_tornado.streams.responses import Answer
from tests.kernel.model_session import ModelSession
from tests.kernel.simulated_loop import SimulatedLoop
from tests.kernel.simulated_process import HTTPConnection, SimulatedProcess

RESPONSE: Final = "response"
"""The messages that a call sends on its own stream."""
STANDALONE: Final = "standalone"
"""The messages that a call sends on the session's standalone stream."""


class Call:
    """A call of the scripted tool: it executes the commands that the test adds, and counts what it sends.

    Args:
        session: The session of the call.
        calls: The calls of all sessions; the new call is added.
        process: The process that the call is sent to.
        receive_stream: What the client reads of `/mcp/receive` if the call is sent to `/mcp/send`; `None` for a call in
            a POST to `/mcp`.
    """

    def __init__(
        self,
        session: ModelSession,
        calls: list[Call],
        process: SimulatedProcess,
        receive_stream: ObservedStream | None,
    ) -> None:
        self.number = len(calls)
        self.request_id = sum(call.session is session for call in calls)
        calls.append(self)
        self.session = session
        self.process = process
        self.is_background = receive_stream is not None
        """Whether the call is sent to `/mcp/send`."""
        self.stream = (
            receive_stream if receive_stream is not None else ObservedStream(process.loop, session, calls, call=self)
        )
        """The stream on which the client receives the call's messages and its answer."""
        self.was_accepted = False
        """Whether `/mcp/send` has accepted the call."""
        self.answer: dict[str, Any] | None = None
        self.allowed_failures: set[str] = set()
        """Why the answer may be another one than the result: "cancelled", "killed", "drained" or "partitioned"."""
        self.cancel_was_accepted = False
        """Whether a process has accepted a cancellation of the running call. The call must then end without the
        command `finish`."""
        self.finish_was_commanded = False
        self.closed_streams = 0
        """How often the call has closed its stream, so that the client resumes."""
        self.sent_counts: Counter[str] = Counter()
        """How many messages the call has begun to send, by stream."""
        self.accepted_counts: Counter[str] = Counter()
        """How many of them the server has certainly accepted."""
        self.elicitations: dict[int, Elicitation] = {}
        """The requests of the call to its client, by their index among the messages on the call's stream."""
        self._has_started = False
        self._was_interrupted = False
        self._is_finishing = False
        self._commands: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"call {self.number} of client {self.session.number}"

    @property
    def is_running(self) -> bool:
        """Whether the tool waits for a command or executes one."""
        return self._has_started and not self._is_finishing and not self._was_interrupted and self.process.is_alive

    @property
    def is_answer_due(self) -> bool:
        """Whether the client does not have the answer yet and can still get it."""
        if self.answer is not None or self.session.may_have_ended():
            return False
        if self.is_background:
            return self.was_accepted
        return self.stream.last_event_id is not None or self.stream.is_open

    @property
    def body(self) -> dict[str, Any]:
        """The body of the request."""
        params = {"name": "scripted", "arguments": {"call": self.number}}
        return {"jsonrpc": "2.0", "id": self.request_id, "method": "tools/call", "params": params}

    def report(self, fault: str) -> None:
        """Report a fault of this call."""
        self.process.loop.report(f"{self} {fault}")

    # ------------------------------------------------------------------ the tool

    def command(self, command: str, count: int = 1) -> None:
        """Queue a command that the tool executes `count` times.

        The commands are `notify`, `notify_standalone`, `elicit`, `close_stream`, and `finish`, which makes the tool
        return its result.
        """
        self.finish_was_commanded = self.finish_was_commanded or command == "finish"
        self._commands.put_nowait((command, count))

    async def execute(self, ctx) -> CallToolResult:
        """Execute the commands until `finish`. This is the handler of the tool."""
        if self._has_started:
            self.report("runs twice")
        self._has_started = True
        try:
            while True:
                command, count = await self._commands.get()
                if command == "finish":
                    break
                for _ in range(count):
                    await self._execute_command(command, ctx)
        except BaseException:
            self._was_interrupted = True
            raise
        self._is_finishing = True
        return CallToolResult(content=[TextContent(type="text", text=self._result_text)])

    @property
    def _result_text(self) -> str:
        return f"result {self.number}"

    async def _execute_command(self, command: str, ctx) -> None:
        if command == "notify":
            await self._notify(ctx, RESPONSE, ctx.request_id)
        elif command == "notify_standalone":
            await self._notify(ctx, STANDALONE, None)
        elif command == "elicit":
            await self._elicit(ctx)
        elif command == "close_stream":
            await self._close_stream(ctx)
        else:
            raise ValueError(command)

    async def _notify(self, ctx, stream: str, related_request_id) -> None:
        data = [stream, self.number, self.sent_counts[stream]]
        self.sent_counts[stream] += 1
        params = LoggingMessageNotificationParams(level="info", data=data)
        await ctx.session.send_notification(LoggingMessageNotification(params=params), related_request_id)
        self.accepted_counts[stream] += 1

    async def _elicit(self, ctx) -> None:
        index = self.sent_counts[RESPONSE]
        self.sent_counts[RESPONSE] += 1
        elicitation = self.elicitations[index] = Elicitation(self)
        params = ElicitRequestFormParams(
            message=json.dumps([RESPONSE, self.number, index]), requested_schema={"type": "object", "properties": {}}
        )
        metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
        reply = await ctx.session.send_request(ElicitRequest(params=params), ElicitResult, metadata=metadata)
        self.accepted_counts[RESPONSE] += 1
        if (reply.content or {}).get("token") not in elicitation.tokens:
            self.report(f"got the reply {reply.content}; its client has sent the tokens {elicitation.tokens}")

    async def _close_stream(self, ctx) -> None:
        if ctx.close_sse_stream is not None:
            self.closed_streams += 1
            await ctx.close_sse_stream()

    # ------------------------------------------------------------------ the answer

    def receive_answer(self, answer: dict[str, Any], received_count: int) -> None:
        """Check an answer that the client has received.

        Args:
            answer: The answer.
            received_count: How many messages of the call's stream the client has received before the answer.
        """
        if self.answer is not None and self.answer != answer:
            self.report(f"has two different answers: {self.answer} and {answer}")
        self.answer = answer
        if not self._is_allowed(answer):
            self.report(f"was answered {answer}; the failures that may have happened are {self.allowed_failures}")
        lost_count = self.accepted_counts[RESPONSE] - received_count
        if lost_count > 0 and "partitioned" not in self.allowed_failures and not self.session.may_have_ended():
            self.report(f"was answered, and {lost_count} of its messages before the answer are lost")

    def _is_allowed(self, answer: dict[str, Any]) -> bool:
        if "result" in answer:
            return answer["result"]["content"][0]["text"] == self._result_text and self._is_finishing
        code = answer.get("error", {}).get("code")
        if code == REQUEST_CANCELLED:
            return "cancelled" in self.allowed_failures
        if code == CALL_LOST:
            return bool(self.allowed_failures - {"cancelled"}) or self.session.may_have_ended()
        return "partitioned" in self.allowed_failures


class Elicitation:
    """A request that a call has sent to its client."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.request_id: Any = None
        """The id of the request; `None` until the client has received it."""
        self.tokens: list[int] = []
        """The tokens of the replies that the client has sent."""
        self.was_replied = False
        """Whether a process has accepted a reply."""

    def reply(self, token: Any) -> dict[str, Any]:
        """Return a reply with this token."""
        result = {"action": "accept", "content": {"token": token}}
        return {"jsonrpc": "2.0", "id": self.request_id, "result": result}


class ObservedStream:
    """What a client receives of one stream, over several connections. Each continues where the last one ended.

    Args:
        loop: Collects the faults.
        session: The session of the client.
        calls: The calls of all sessions.
        call: The call whose stream it is; `None` for the standalone stream and for `/mcp/receive`.
        is_receive: Whether it is `/mcp/receive`, which shows the calls of `/mcp/send` too.
    """

    def __init__(
        self,
        loop: SimulatedLoop,
        session: ModelSession,
        calls: list[Call],
        *,
        call: Call | None = None,
        is_receive: bool = False,
    ) -> None:
        self._loop = loop
        self._session = session
        self._calls = calls
        self._call = call
        self._is_receive = is_receive
        self.connection: HTTPConnection | None = None
        """The newest connection."""
        self.last_event_id: str | None = None
        self.received_counts: Counter[tuple[str, int]] = Counter()
        """How many messages were received, by the stream and the number of the call that sent them."""
        self._answered: set[int] = set()
        """The numbers of the calls whose answers were received."""

    @property
    def is_open(self) -> bool:
        """Whether a connection is open."""
        return self.connection is not None and self.connection.is_open

    def report(self, fault: str) -> None:
        """Report a fault of this stream."""
        name = f"the stream of {self._call}" if self._call else "/mcp/receive" if self._is_receive else "GET"
        self._loop.report(f"{name}, client {self._session.number}: {fault}")

    def receive(self, connection: HTTPConnection, data: Frame | Answer) -> None:
        """Check a frame, or the JSON answer of a POST, that a connection has received."""
        if connection is not self.connection:
            return  # the client has opened another connection and ignores this one
        if isinstance(data, Answer):
            if self.last_event_id is not None:
                self.report("a JSON answer after the first frame of the stream")
            self.receive_message(json.loads(data.body))
            return
        if data.id is None and data.message is None:
            return  # it has only the `retry` field of server-sent events
        self.receive_event_id(data.id)
        if data.message is not None:
            self.receive_message(json.loads(json.dumps(data.message)))

    def receive_event_id(self, text: str | None) -> None:
        """Check that an event id belongs to this session and stream, and that it is later than the last one."""
        if text is None:
            was_partitioned = self._call is not None and "partitioned" in self._call.allowed_failures
            if not self._session.may_have_ended() and not was_partitioned:
                self.report("a frame without an event id")
            return
        event_id, last = EventId.parse(text), EventId.parse(self.last_event_id or "")
        if event_id is None or not event_id.belongs_to(self._session.key):
            self.report(f"event id {text} does not belong to this session")
        elif last is not None and event_id.number <= last.number:
            self.report(f"event id {text} after {self.last_event_id}")
        elif last is not None and self._call is not None and event_id.stream != last.stream:
            self.report(f"event id {text} belongs to another stream than {self.last_event_id}")
        self.last_event_id = text

    def receive_message(self, message: Mapping[str, Any]) -> None:
        """Check a message."""
        method = message.get("method")
        if method is None:
            self._receive_answer(dict(message))
        elif method == "notifications/message":
            self._check_order(*message["params"]["data"])
        elif method == "elicitation/create":
            call, index = self._check_order(*json.loads(message["params"]["message"]))
            call.elicitations[index].request_id = message["id"]
        elif method != "notifications/cancelled":
            self.report(f"unexpected message: {message}")

    def _receive_answer(self, answer: dict[str, Any]) -> None:
        own_calls = [call for call in self._calls if call.session is self._session]
        call = own_calls[answer["id"]] if answer["id"] in range(len(own_calls)) else None
        if call is None or not self._carries(call):
            self.report(f"the answer to another request: {answer}")
            return
        if call.number in self._answered:
            self.report(f"{call} is answered twice")
        self._answered.add(call.number)
        call.receive_answer(answer, self.received_counts[RESPONSE, call.number])

    def _check_order(self, stream: str, number: int, index: int) -> tuple[Call, int]:
        """Check that a message belongs here and is the next one of its call; return the call and the index."""
        call = self._calls[number]
        if call.session is not self._session:
            self.report(f"a message of {call}, which belongs to another session")
        elif stream == STANDALONE:
            if self._call is not None:
                self.report(f"a message of {call} for the standalone stream")
        elif not self._carries(call):
            self.report(f"a message of {call}, which has its own stream")
        if number in self._answered and stream == RESPONSE:
            self.report(f"a message of {call} after its answer")
        expected = self.received_counts[stream, number]
        if index < expected or (index > expected and "partitioned" not in call.allowed_failures):
            self.report(f"message {index} of {call} ({stream}) instead of message {expected}")
        self.received_counts[stream, number] = index + 1
        return call, index

    def _carries(self, call: Call) -> bool:
        """Return whether the messages of a call and its answer belong on this stream."""
        return call is self._call or (self._is_receive and call.is_background)
