"""The reference model: what clients do and see, and what they must and must not see.

Everything a call says carries its number and is counted, so that whatever is lost, doubled, out of order or in the
wrong place is noticed as it comes.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any, Final

from mcp.server.lowlevel.server import Server
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    ListToolsResult,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    TextContent,
)

from mcp_tornado.jsonrpc import CALL_LOST, REQUEST_CANCELLED
from mcp_tornado.sessions import EventId
from mcp_tornado.sessions.ids import session_key
from mcp_tornado.streams.responses import Answer
from tests.kernel.simulation import INBOUND, RULES, Connection, Process, World

SAID: Final = "said"
"""What a call says on its own stream."""
ASIDE: Final = "aside"
"""What a call says on the session's standalone stream."""

_BUSY_MARGIN: Final = 30.0
"""Seconds by which a session may end early that a stream or a call kept alive: they do not refresh it all the time."""

_LETTING_GO: Final = 5.0
"""Seconds after which nobody holds a standalone stream that was let go of."""


class Model:
    """All clients and all calls."""

    def __init__(self, seed: int) -> None:
        self.world = World(self._server, seed)
        self.clients: list[Client] = []
        self.calls: list[Call] = []

    def fault(self, what: str) -> None:
        """Note that something is wrong; whatever runs the world raises it."""
        self.world.faults.append(f"at {self.world.now:.3f}: {what}")

    def _server(self) -> Server:
        async def call_tool(ctx, params):
            return await self.calls[params.arguments["call"]].perform(ctx)

        async def list_tools(ctx, params):
            return ListToolsResult(tools=[])

        return Server("puppets", on_list_tools=list_tools, on_call_tool=call_tool)

    def open_asks(self) -> list[Ask]:
        """Return what clients were asked and have not replied to, where it matters still."""
        asks = (ask for call in self.calls if call.runs for ask in call.asks.values())
        return [ask for ask in asks if ask.request_id is not None and not ask.replied]

    def lose(self, process: Process, why: str) -> None:
        """Note that the calls of a process may be lost from now on."""
        for call in self.calls:
            if call.process is process:
                call.excuses.add(why)


class Call:
    """One call of the one tool there is: a puppet that does what it is told, and counts."""

    def __init__(self, client: Client, process: Process, *, background: bool) -> None:
        self.model = client.model
        self.number = len(self.model.calls)
        self.model.calls.append(self)
        self.client = client
        self.request_id = len(client.calls)
        client.calls.append(self)
        self.process = process
        self.background = background
        self.chain = client.received if background else Chain(client, self)
        self.accepted = False
        """Whether a call for background work was accepted."""
        self.answer: Any = None
        self.excuses: set[str] = set()
        """Why the answer may be another one than the result: cancelled, killed, ended, drained, cut off."""
        self.must_end = False
        """Whether it must be answered without being told to finish."""
        self.started = False
        self.interrupted = False
        self.told_to_finish = False
        self.finishing = False
        self.closes = 0
        self.counts: Counter[str] = Counter()
        """How much was said, on which stream."""
        self.kept: Counter[str] = Counter()
        """How much of that was sent for certain."""
        self.asks: dict[int, Ask] = {}
        self.commands: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"call {self.number} of client {self.client.number}"

    @property
    def runs(self) -> bool:
        """Whether the puppet waits for commands, or does what it was told."""
        return self.started and not self.finishing and not self.interrupted and self.process.alive

    def tell(self, command: str, count: int = 1) -> None:
        """Tell the puppet what to do next."""
        self.told_to_finish = self.told_to_finish or command == "finish"
        self.commands.put_nowait((command, count))

    @property
    def body(self) -> dict[str, Any]:
        params = {"name": "puppet", "arguments": {"call": self.number}}
        return {"jsonrpc": "2.0", "id": self.request_id, "method": "tools/call", "params": params}

    # ------------------------------------------------------------------ the puppet

    async def perform(self, ctx) -> CallToolResult:
        """Do what is commanded until told to finish."""
        if self.started:
            self.model.fault(f"{self} runs twice")
        self.started = True
        try:
            while True:
                command, count = await self.commands.get()
                if command == "finish":
                    break
                for _ in range(count):
                    await getattr(self, f"_{command}")(ctx)
        except BaseException:
            self.interrupted = True
            raise
        self.finishing = True
        return CallToolResult(content=[TextContent(type="text", text=f"result {self.number}")])

    async def _say(self, ctx) -> None:
        await self._notify(ctx, SAID, ctx.request_id)

    async def _say_aside(self, ctx) -> None:
        await self._notify(ctx, ASIDE, None)

    async def _notify(self, ctx, channel: str, related_request_id) -> None:
        data = [channel, self.number, self.counts[channel]]
        self.counts[channel] += 1
        params = LoggingMessageNotificationParams(level="info", data=data)
        await ctx.session.send_notification(LoggingMessageNotification(params=params), related_request_id)
        self.kept[channel] += 1

    async def _ask(self, ctx) -> None:
        index = self.counts[SAID]
        self.counts[SAID] += 1
        ask = self.asks[index] = Ask(self)
        params = ElicitRequestFormParams(
            message=json.dumps([SAID, self.number, index]), requested_schema={"type": "object", "properties": {}}
        )
        metadata = ServerMessageMetadata(related_request_id=ctx.request_id)
        reply = await ctx.session.send_request(ElicitRequest(params=params), ElicitResult, metadata=metadata)
        self.kept[SAID] += 1
        if (reply.content or {}).get("token") not in ask.tokens:
            self.model.fault(f"{self} was replied {reply.content}, not one of {ask.tokens}")

    async def _close(self, ctx) -> None:
        if ctx.close_sse_stream is not None:
            self.closes += 1
            await ctx.close_sse_stream()

    # ------------------------------------------------------------------ what the client gets

    @property
    def is_owed(self) -> bool:
        """Whether there is an answer that the client does not have and can get."""
        if self.answer is not None or self.client.may_be_gone():
            return False
        if self.background:
            return self.accepted
        chain = self.chain
        return chain.last_id is not None or (chain.connection is not None and chain.connection.open)

    def take_answer(self, answer: dict[str, Any], seen: int) -> None:
        """Check the answer, before which so much of what was said was seen."""
        if self.answer is not None and self.answer != answer:
            self.model.fault(f"{self} has two answers: {self.answer} and {answer}")
        self.answer = answer
        code = answer.get("error", {}).get("code")
        if "result" in answer:
            text = answer["result"]["content"][0]["text"]
            right = text == f"result {self.number}" and self.finishing
        elif code == REQUEST_CANCELLED:
            right = "cancelled" in self.excuses
        elif code == CALL_LOST:
            right = bool(self.excuses - {"cancelled"}) or self.client.may_be_gone()
        else:
            right = "cut off" in self.excuses
        if not right:
            self.model.fault(f"{self} was answered {answer}; it may be because of {self.excuses or 'nothing'}")
        lost = self.kept[SAID] - seen
        if lost > 0 and "cut off" not in self.excuses and not self.client.may_be_gone():
            self.model.fault(f"{self} was answered, and {lost} of its messages before that are lost")


class Ask:
    """A request of a call's to its client."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.request_id: Any = None
        """Its id, as soon as the client has seen it."""
        self.tokens: list[int] = []
        """What the client has replied."""
        self.replied = False
        """Whether a reply was accepted."""

    def reply(self, process: Process) -> None:
        """Reply, somewhere."""
        self.tokens.append(len(self.tokens))

        def ended(connection) -> None:
            self.replied = self.replied or (connection.refused is None and not connection.broken)

        self.call.client.notify(process, self.message(self.tokens[-1]), ended)

    def message(self, token: Any) -> dict[str, Any]:
        """Return a reply."""
        result = {"action": "accept", "content": {"token": token}}
        return {"jsonrpc": "2.0", "id": self.request_id, "result": result}


class Chain:
    """What a client sees of one stream, along connections of which each goes on where the one before ended.

    Args:
        client: Whose.
        call: The call whose stream it is; `None` for the standalone stream and for `/mcp/receive`.
        background: Whether calls of `/mcp/send` are seen.
    """

    def __init__(self, client: Client, call: Call | None = None, *, background: bool = False) -> None:
        self.client = client
        self.call = call
        self.background = background
        self.connection: Connection | None = None
        self.last_id: str | None = None
        self.seen: Counter[tuple[str, int]] = Counter()
        """How much was seen of what a call said."""
        self.answered: set[int] = set()

    @property
    def is_read(self) -> bool:
        """Whether a connection is open."""
        return self.connection is not None and self.connection.open

    def fault(self, what: str) -> None:
        name = f"the stream of {self.call}" if self.call else "/mcp/receive" if self.background else "GET"
        self.client.model.fault(f"{name}, client {self.client.number}: {what}")

    def take(self, connection: Connection, got: Any) -> None:
        """Take what a connection brings: a frame, or the JSON answer of a POST."""
        if connection is not self.connection:
            return  # the client has gone on with another one
        if isinstance(got, Answer):
            if self.last_id is not None:
                self.fault("JSON after a stream had begun")
            self.take_message(json.loads(got.body))
            return
        if got.id is None and got.message is None:
            return  # it is told to come back
        self.take_id(got.id)
        if got.message is not None:
            self.take_message(json.loads(json.dumps(got.message)))

    def take_id(self, text: str | None) -> None:
        """Check an event id: of this session, and later than the one before."""
        if text is None:
            if not self.client.may_be_gone() and not (self.call and "cut off" in self.call.excuses):
                self.fault("a frame without an event id")
            return
        event_id, last = EventId.parse(text), EventId.parse(self.last_id or "")
        if event_id is None or not event_id.belongs_to(self.client.key):
            self.fault(f"event id {text} is not this session's")
        elif last is not None and event_id.number <= last.number:
            self.fault(f"event id {text} after {self.last_id}")
        elif last is not None and self.call is not None and event_id.stream != last.stream:
            self.fault(f"event id {text} is of another stream than {self.last_id}")
        self.last_id = text

    def take_message(self, message: dict[str, Any]) -> None:
        """Check a message."""
        method = message.get("method")
        if method is None:
            self._take_answer(message)
        elif method == "notifications/message":
            self._take_mark(*message["params"]["data"])
        elif method == "elicitation/create":
            call, index = self._take_mark(*json.loads(message["params"]["message"]))
            call.asks[index].request_id = message["id"]
        elif method != "notifications/cancelled":
            self.fault(f"unexpected: {message}")

    def _take_answer(self, message: dict[str, Any]) -> None:
        calls = self.client.calls
        call = calls[message["id"]] if message["id"] in range(len(calls)) else None
        if call is None or not (call is self.call or (self.background and call.background)):
            self.fault(f"the answer to another request: {message}")
            return
        if call.number in self.answered:
            self.fault(f"{call} is answered twice")
        self.answered.add(call.number)
        call.take_answer(message, self.seen[SAID, call.number])

    def _take_mark(self, channel: str, number: int, index: int) -> tuple[Call, int]:
        call = self.client.model.calls[number]
        if call.client is not self.client:
            self.fault(f"{call} is of another session")
        elif channel == ASIDE:
            if self.call is not None:
                self.fault(f"{call} spoke aside")
        elif not (call is self.call or (self.background and call.background)):
            self.fault(f"{call} has a stream of its own")
        if number in self.answered and channel == SAID:
            self.fault(f"{call} goes on after its answer")
        expected = self.seen[channel, number]
        if index < expected or (index > expected and "cut off" not in call.excuses):
            self.fault(f"message {index} of {call} ({channel}) instead of {expected}")
        self.seen[channel, number] = index + 1
        return call, index


class Client:
    """One client with one session."""

    def __init__(self, model: Model, session_id: str, version: str) -> None:
        self.model = model
        self.number = len(model.clients)
        model.clients.append(self)
        self.session_id = session_id
        self.key = session_key(session_id)
        self.version = version
        self.calls: list[Call] = []
        self.heard = Chain(self)
        self.received = Chain(self, background=True)
        self.listening: list[Connection] = []
        """The connections that read the standalone stream, or try to."""
        self.not_listening_since = model.world.now
        self.takeovers = 0
        """How often it took its standalone stream over from itself."""
        self.ending = False
        """Whether it was asked for its end."""
        self.ended = False
        """Whether it has ended, as far as the client was told."""
        self.gone = False
        """Whether it was seen not to live any more."""
        self._used_at = self._busy_at = model.world.now

    # ------------------------------------------------------------------ living and ending

    def may_be_gone(self) -> bool:
        """Say whether the session may have ended."""
        now, idle = self.model.world.now, RULES.idle_timeout
        return self.gone or self.ending or (now >= self._used_at + idle and now >= self._busy_at + idle - _BUSY_MARGIN)

    def note_use(self) -> None:
        """Note that a request has refreshed the session."""
        self._used_at = self.model.world.now

    def note_business(self) -> None:
        """Note that calls run or streams are open, where they are: they keep the session alive."""
        streams = (connection for process in self.model.world.processes for connection in process.connections)
        if any(call.runs for call in self.calls) or any(one.client is self and one.streams for one in streams):
            self._busy_at = self.model.world.now

    async def check(self) -> None:
        """Check that the session is there as long as it must be, and never comes back."""
        store = self.model.world.store
        record = await store.get(self.key)
        lives = record is not None and record.expires_at > self.model.world.clock()
        if lives and self.gone:
            self.model.fault(f"the session of client {self.number} is back")
        if not lives and not self.may_be_gone():
            self.model.fault(f"the session of client {self.number} is gone")
        self.gone = not lives
        if self.ended and (record is not None or await store.read(self.key, None)):
            self.model.fault(f"something is left of the session of client {self.number}")

    # ------------------------------------------------------------------ what it does

    def request(self, process: Process, handle, *, expect=(), receive=None, ended=None) -> Connection:
        """Send a request.

        Args:
            process: To whom.
            handle: What the web layer does with it.
            expect: Codes of errors that it may be refused with, beside those that any request may be.
            receive: Takes the frames.
            ended: Called at its end.
        """
        may_be_gone, had_ended = self.may_be_gone(), self.ended

        async def use(connection, session):
            self.note_use()
            return await handle(connection, session)

        def end(connection) -> None:
            code = connection.refused
            allowed = set(expect)
            if may_be_gone or self.ending:
                allowed |= {"SESSION_NOT_FOUND", "SESSION_EXPIRED"}
            if process.draining:
                allowed |= {"SERVER_DRAINING"}
            if process.was_cut_off:
                allowed |= {"STORE_UNAVAILABLE"}
            if code is not None and code not in allowed:
                self.model.fault(f"client {self.number} was refused: {code}")
            if code is None and had_ended and not connection.broken:
                self.model.fault(f"client {self.number} was served, although its session has ended")
            if ended is not None:
                ended(connection)

        connection = Connection(process, self.session_id, use, receive=receive, ended=end)
        connection.client = self
        return connection

    def notify(self, process: Process, message: dict[str, Any], ended=None) -> None:
        """POST what is owed no answer."""
        self.request(
            process, lambda connection, session: connection.kernel.post(session, message, INBOUND), ended=ended
        )

    def call(self, process: Process, *, background: bool) -> Call:
        """Call the tool."""
        call = Call(self, process, background=background)
        if process.draining:
            call.excuses.add("drained")
        if process.was_cut_off:
            call.excuses.add("cut off")
        if background:
            self._send(call)
        else:
            self._post(call)
        return call

    def _send(self, call: Call) -> None:
        def ended(connection) -> None:
            call.accepted = connection.refused is None and not connection.broken

        self.request(
            call.process, lambda connection, session: connection.kernel.send(session, call.body, INBOUND), ended=ended
        )

    def _post(self, call: Call) -> None:
        async def handle(connection, session):
            return await connection.answer(await connection.kernel.post(session, call.body, INBOUND))

        def ended(connection) -> None:
            unanswered = call.answer is None and connection.refused is None and not connection.broken
            if unanswered and not call.closes and not call.process.was_cut_off:
                self.model.fault(f"the POST of {call} ended without an answer")

        call.chain.connection = self.request(call.process, handle, receive=call.chain.take, ended=ended)

    def resume(self, call: Call, process: Process) -> None:
        """Go on reading a call's stream, somewhere."""
        chain = call.chain
        if chain.connection is not None:
            chain.connection.hang_up()

        async def handle(connection, session):
            await self._get(connection, session, chain.last_id)

        def ended(connection) -> None:
            unanswered = call.answer is None and connection.refused is None and not connection.broken
            excused = process.draining or process.was_cut_off or self.may_be_gone()
            if unanswered and not excused:
                self.model.fault(f"a resumed stream of {call} ended without an answer")

        chain.connection = self.request(process, handle, receive=chain.take, ended=ended)

    def listen(self, process: Process, *, anew: bool) -> None:
        """Read the standalone stream: go on, which takes it over, or begin anew."""
        chain = self.heard
        if anew or chain.last_id is None:
            chain = Chain(self)
        else:
            self.takeovers += 1
        after, before = chain.last_id, self.takeovers
        holders = [connection for connection in self.listening if connection.streams]

        async def handle(connection, session):
            await self._get(connection, session, after)

        def receive(connection, frame) -> None:
            self.heard = chain
            chain.take(connection, frame)

        def ended(connection) -> None:
            self.listening.remove(connection)
            served = connection.streams and not process.was_cut_off
            held = [one for one in holders if one.open and one.process.serves and not one.process.was_cut_off]
            if served and held and before == self.takeovers and after is None:
                self.model.fault(f"client {self.number} listens twice")
            alone = not self.listening and connection.opened_at >= self.not_listening_since + _LETTING_GO
            if connection.refused == "SESSION_CONFLICT" and alone:
                self.model.fault(f"client {self.number} may not listen, although nobody does")
            self.not_listening_since = self.model.world.now

        expect = ["SESSION_CONFLICT"] if after is None else []
        chain.connection = self.request(process, handle, expect=expect, receive=receive, ended=ended)
        self.listening.append(chain.connection)

    def stop_listening(self) -> None:
        """Hang up whatever reads the standalone stream."""
        for connection in list(self.listening):
            connection.hang_up()

    async def _get(self, connection: Connection, session, last_event_id: str | None) -> None:
        reader = await connection.kernel.open_stream(session, last_event_id)
        try:
            await connection.stream(reader)
        finally:
            connection.kernel.release(reader)

    def receive(self, process: Process, wait: float, *, anew: bool = False) -> None:
        """Poll for what the server has: go on, or begin anew."""
        chain = Chain(self, background=True) if anew else self.received
        if chain.is_read:
            return

        async def handle(connection, session):
            events, after = await connection.kernel.poll(session, chain.last_id, wait)
            if not connection.open:
                return
            for event in events:
                chain.take_id(event.id)
                chain.take_message(dict(event.message))
            if after != chain.last_id:
                chain.fault(f"to go on after {after}, but the last event is {chain.last_id}")

        chain.connection = self.request(process, handle)

    def cancel(self, call: Call, process: Process) -> None:
        """Cancel a call by a notification."""
        ran = call.runs
        call.excuses.add("cancelled")

        def ended(connection) -> None:
            if connection.refused is None and not connection.broken and ran:
                call.must_end = True

        params = {"requestId": call.request_id}
        self.notify(process, {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}, ended)

    def abort(self, call: Call, process: Process) -> None:
        """Cancel a call by `/mcp/abort`."""
        ran = call.runs
        # What was cancelled before has its answer, though that may still be on its way.
        ran = ran and "cancelled" not in call.excuses
        call.excuses.add("cancelled")

        def ended(connection) -> None:
            # A receipt can be late where one of the two was cut off.
            cut_off = process.was_cut_off or call.process.was_cut_off
            if connection.broken:
                return
            if connection.refused is None:
                call.must_end = True
            elif connection.refused == "REQUEST_NOT_FOUND" and ran and call.runs and not cut_off:
                self.model.fault(f"{call} runs and could not be aborted")

        def handle(connection, session):
            return connection.kernel.abort(session, call.request_id)

        self.request(process, handle, expect=["REQUEST_NOT_FOUND"], ended=ended)

    def delete(self, process: Process) -> None:
        """End the session."""
        self.ending = True

        def ended(connection) -> None:
            self.ended = self.ended or (connection.refused is None and not connection.broken)

        self.request(process, lambda connection, session: connection.kernel.terminate(session), ended=ended)
