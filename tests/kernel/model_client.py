"""A client with one session: the requests that it sends, and the answers that each of them may get."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any, Final

from mcp_tornado.hosting import InboundRequest
from mcp_tornado.sessions import Session
from mcp_tornado.streams.frames import Frame
from mcp_tornado.streams.responses import Answer
from tests.kernel.model_calls import Call, Elicitation, ObservedStream
from tests.kernel.model_session import ModelSession
from tests.kernel.simulated_cluster import SimulatedCluster
from tests.kernel.simulated_process import HTTPConnection, SimulatedProcess

_INBOUND: Final = InboundRequest("POST", "http", "localhost", "/mcp", "", SimpleNamespace(get_all=list), "127.0.0.1")
_STANDALONE_RELEASE_SECONDS: Final = 5.0
"""How long after its last connection the standalone stream may still count as being read."""


class Client:
    """One client.

    Args:
        cluster: The cluster.
        calls: The calls of all clients; the client adds its own.
        number: The client's number.
        session_id: The id of its session.
    """

    def __init__(self, cluster: SimulatedCluster, calls: list[Call], number: int, session_id: str) -> None:
        self._cluster = cluster
        self._calls = calls
        self.number = number
        self.session = ModelSession(cluster, number, session_id)
        self.standalone_stream = self._new_stream()
        self.receive_stream = self._new_stream(is_receive=True)
        """What the client reads of `/mcp/receive`."""
        self.standalone_connections: list[HTTPConnection] = []
        """The connections that read the standalone stream, or that have asked for it."""
        self._standalone_released_at = cluster.loop.time()
        """When the last connection of the standalone stream ended."""
        self._standalone_resumptions = 0
        """How often the client has resumed the standalone stream, which ends an older connection of it."""

    @property
    def calls(self) -> list[Call]:
        """The calls of this client, the oldest first."""
        return [call for call in self._calls if call.session is self.session]

    def note_activity(self) -> None:
        """Note it if a call runs or a stream is open now: they keep the session alive."""
        connections = [connection for process in self._cluster.processes for connection in process.connections]
        has_stream = any(
            connection.session_id == self.session.session_id and connection.is_streaming for connection in connections
        )
        if has_stream or any(call.is_running for call in self.calls):
            self.session.note_busy()

    def _new_stream(self, *, is_receive: bool = False) -> ObservedStream:
        return ObservedStream(self._cluster.loop, self.session, self._calls, is_receive=is_receive)

    def _report(self, fault: str) -> None:
        self._cluster.loop.report(f"client {self.number} {fault}")

    # ------------------------------------------------------------------ requests

    def request(
        self,
        process: SimulatedProcess,
        handle: Callable[[HTTPConnection, Session], Awaitable[object]],
        *,
        allowed_errors: Iterable[str] = (),
        on_data: Callable[[HTTPConnection, Frame | Answer], None] | None = None,
        on_end: Callable[[HTTPConnection], None] | None = None,
    ) -> HTTPConnection:
        """Send a request.

        Args:
            process: The process that gets the request.
            handle: What the web layer does with it.
            allowed_errors: The codes of errors that it may be answered with, besides those that any request may get.
            on_data: Called with what the client receives.
            on_end: Called when the connection has ended.
        """
        may_have_ended, was_terminated = self.session.may_have_ended(), self.session.is_terminated

        async def refresh_and_handle(connection: HTTPConnection, session: Session) -> None:
            self.session.note_use()
            await handle(connection, session)

        def check_end(connection: HTTPConnection) -> None:
            code = connection.error_code
            allowed = set(allowed_errors)
            if may_have_ended or self.session.termination_requested:
                allowed |= {"SESSION_NOT_FOUND", "SESSION_EXPIRED"}
            if process.is_draining:
                allowed |= {"SERVER_DRAINING"}
            if process.was_partitioned:
                allowed |= {"STORE_UNAVAILABLE"}
            if code is not None and code not in allowed:
                self._report(f"got the error {code}")
            if was_terminated and connection.was_served:
                self._report("was served, although its session was terminated before")
            if on_end is not None:
                on_end(connection)

        return HTTPConnection(process, self.session.session_id, refresh_and_handle, on_data=on_data, on_end=check_end)

    def notify(
        self,
        process: SimulatedProcess,
        message: dict[str, Any],
        on_end: Callable[[HTTPConnection], None] | None = None,
    ) -> None:
        """POST a notification or a reply, which gets no answer."""
        self.request(
            process, lambda connection, session: connection.kernel.post(session, message, _INBOUND), on_end=on_end
        )

    def reply(self, elicitation: Elicitation, process: SimulatedProcess) -> None:
        """Reply to a request of the server with a new token."""
        elicitation.tokens.append(len(elicitation.tokens))

        def note_reply(connection: HTTPConnection) -> None:
            elicitation.was_replied = elicitation.was_replied or connection.was_served

        self.notify(process, elicitation.reply(elicitation.tokens[-1]), note_reply)

    def terminate(self, process: SimulatedProcess) -> None:
        """End the session."""
        self.session.termination_requested = True

        def note_termination(connection: HTTPConnection) -> None:
            self.session.is_terminated = self.session.is_terminated or connection.was_served

        self.request(process, lambda connection, session: connection.kernel.terminate(session), on_end=note_termination)

    # ------------------------------------------------------------------ calls

    def call(self, process: SimulatedProcess, *, is_background: bool) -> Call:
        """Call the tool: by a POST to `/mcp`, or to `/mcp/send` if the call is for the background."""
        call = Call(self.session, self._calls, process, self.receive_stream if is_background else None)
        if process.is_draining:
            call.allowed_failures.add("drained")
        if process.was_partitioned:
            call.allowed_failures.add("partitioned")
        if is_background:
            self._send(call)
        else:
            self._post(call)
        return call

    def _send(self, call: Call) -> None:
        def note_acceptance(connection: HTTPConnection) -> None:
            call.was_accepted = connection.was_served

        self.request(
            call.process,
            lambda connection, session: connection.kernel.send(session, call.body, _INBOUND),
            on_end=note_acceptance,
        )

    def _post(self, call: Call) -> None:
        async def handle(connection: HTTPConnection, session: Session) -> None:
            await connection.answer(await connection.kernel.post(session, call.body, _INBOUND))

        def check_answered(connection: HTTPConnection) -> None:
            is_excused = call.closed_streams or call.process.was_partitioned
            if call.answer is None and connection.was_served and not is_excused:
                call.report("has no answer, but its POST has ended")

        call.stream.connection = self.request(call.process, handle, on_data=call.stream.receive, on_end=check_answered)

    def resume(self, call: Call, process: SimulatedProcess) -> None:
        """Resume the stream of a call; close the connection that reads it now."""
        stream = call.stream
        if stream.connection is not None:
            stream.connection.disconnect()

        async def handle(connection: HTTPConnection, session: Session) -> None:
            await self._get(connection, session, stream.last_event_id)

        def check_answered(connection: HTTPConnection) -> None:
            is_excused = process.is_draining or process.was_partitioned or self.session.may_have_ended()
            if call.answer is None and connection.was_served and not is_excused:
                call.report("has no answer, but a resumed stream of it has ended")

        stream.connection = self.request(process, handle, on_data=stream.receive, on_end=check_answered)

    def cancel(self, call: Call, process: SimulatedProcess) -> None:
        """Cancel a call with `notifications/cancelled`."""
        was_running = call.is_running
        call.allowed_failures.add("cancelled")

        def note_acceptance(connection: HTTPConnection) -> None:
            if connection.was_served and was_running:
                call.cancel_was_accepted = True

        params = {"requestId": call.request_id}
        self.notify(process, {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}, note_acceptance)

    def abort(self, call: Call, process: SimulatedProcess) -> None:
        """Cancel a call with `/mcp/abort`."""
        # A call that was cancelled before has its answer, although the answer may not have arrived yet.
        was_running = call.is_running and "cancelled" not in call.allowed_failures
        call.allowed_failures.add("cancelled")

        def check_acknowledged(connection: HTTPConnection) -> None:
            # An acknowledgement may be late if one of the two processes was partitioned.
            was_partitioned = process.was_partitioned or call.process.was_partitioned
            must_be_found = was_running and call.is_running and not was_partitioned
            if connection.was_served:
                call.cancel_was_accepted = True
            elif connection.error_code == "REQUEST_NOT_FOUND" and must_be_found:
                call.report("runs, but could not be aborted")

        self.request(
            process,
            lambda connection, session: connection.kernel.abort(session, call.request_id),
            allowed_errors=["REQUEST_NOT_FOUND"],
            on_end=check_acknowledged,
        )

    # ------------------------------------------------------------------ streams

    def open_standalone(self, process: SimulatedProcess, *, from_start: bool) -> None:
        """GET the standalone stream: resume it, which ends an older connection of it, or open it from the start."""
        stream = self.standalone_stream
        if from_start or stream.last_event_id is None:
            stream = self._new_stream()
        else:
            self._standalone_resumptions += 1
        resumed_after, resumptions = stream.last_event_id, self._standalone_resumptions
        readers = [connection for connection in self.standalone_connections if connection.is_streaming]

        async def handle(connection: HTTPConnection, session: Session) -> None:
            await self._get(connection, session, resumed_after)

        def receive(connection: HTTPConnection, frame: Frame | Answer) -> None:
            self.standalone_stream = stream
            stream.receive(connection, frame)

        def check_exclusive(connection: HTTPConnection) -> None:
            self.standalone_connections.remove(connection)
            was_opened = connection.is_streaming and not process.was_partitioned
            other_readers = [
                reader
                for reader in readers
                if reader.is_open and reader.process.accepts_work and not reader.process.was_partitioned
            ]
            was_resumed = resumed_after is not None or resumptions != self._standalone_resumptions
            if was_opened and other_readers and not was_resumed:
                self._report("reads its standalone stream on two connections")
            was_free = connection.opened_at >= self._standalone_released_at + _STANDALONE_RELEASE_SECONDS
            if connection.error_code == "SESSION_CONFLICT" and not self.standalone_connections and was_free:
                self._report("may not open its standalone stream, although no connection reads it")
            self._standalone_released_at = self._cluster.loop.time()

        stream.connection = self.request(
            process,
            handle,
            allowed_errors=["SESSION_CONFLICT"] if resumed_after is None else [],
            on_data=receive,
            on_end=check_exclusive,
        )
        self.standalone_connections.append(stream.connection)

    def close_standalone(self) -> None:
        """Close all connections of the standalone stream."""
        for connection in list(self.standalone_connections):
            connection.disconnect()

    async def _get(self, connection: HTTPConnection, session: Session, last_event_id: str | None) -> None:
        reader = await connection.kernel.open_stream(session, last_event_id)
        try:
            await connection.stream(reader)
        finally:
            connection.kernel.release(reader)

    def poll(self, process: SimulatedProcess, wait: float, *, from_start: bool = False) -> None:
        """Poll `/mcp/receive` unless a poll is open: continue after the last event, or start at the oldest one.

        Args:
            process: The process that gets the request.
            wait: How long the process may wait for an event, in seconds.
            from_start: Whether to start at the oldest event.
        """
        stream = self._new_stream(is_receive=True) if from_start else self.receive_stream
        if stream.is_open:
            return

        async def handle(connection: HTTPConnection, session: Session) -> None:
            events, next_after = await connection.kernel.poll(session, stream.last_event_id, wait)
            if not connection.is_open:
                return
            for event in events:
                stream.receive_event_id(event.id)
                stream.receive_message(dict(event.message or {}))
            if next_after != stream.last_event_id:
                stream.report(f"to continue after {next_after}, but the last event is {stream.last_event_id}")

        stream.connection = self.request(process, handle)
