"""The kernel, which handles MCP messages for the web layer. This module creates, connects and ends its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from mcp_tornado.cluster.mailbox import Mailbox
from mcp_tornado.cluster.membership import DEFAULT_TIMES, Membership, MembershipTimes
from mcp_tornado.hosting.client_mistakes import mistakes_answered
from mcp_tornado.hosting.host import HostedServer, without_idle_tracing
from mcp_tornado.hosting.lifespan import ServerLifespan
from mcp_tornado.hosting.request import InboundRequest
from mcp_tornado.hosting.request_state import shared_request_state
from mcp_tornado.hosting.tool_errors import errors_of_handlers_shown
from mcp_tornado.jsonrpc import JSONObject, Request, RequestId
from mcp_tornado.kernel.admission import Admission
from mcp_tornado.kernel.announcements import Announcements, list_changed_options
from mcp_tornado.kernel.connections import ConnectionPool, SessionConnection
from mcp_tornado.kernel.containment import contained_tasks
from mcp_tornado.kernel.handshake import Handshake, HandshakeResult
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.kernel.routing import Routing
from mcp_tornado.kernel.running_calls import RunningCalls
from mcp_tornado.kernel.session_messages import SessionMessages
from mcp_tornado.kernel.session_streams import SessionStreams
from mcp_tornado.kernel.stateless import StatelessRequests
from mcp_tornado.kernel.stateless_exchange import StatelessExchange
from mcp_tornado.kernel.subscriptions import EventRelay
from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import (
    ClientInfo,
    ErrorCode,
    Event,
    EventLog,
    Session,
    SessionError,
    SessionManager,
    short_key,
)
from mcp_tornado.streams.open_readers import OpenReaders
from mcp_tornado.streams.orphans import Orphans
from mcp_tornado.streams.reader import StreamReader
from mcp_tornado.streams.responses import Answer, AnswerForm, SessionExchange
from mcp_tornado.streams.standalone import StandaloneStreams
from mcp_tornado.streams.tasks import BackgroundTasks
from mcp_tornado.streams.timers import SharedTimer

_log = get_logger(__name__)


class Kernel:
    """Runs the handlers of a hosted server for HTTP requests, and keeps the streams of this process.

    Args:
        hosted: The server.
        manager: The sessions.
        log: The event log of the sessions, behind the store's guard.
        metrics: The metrics.
        stream_after: The seconds after which a POST that has emitted nothing becomes a stream.
        json_responses: Whether a POST to `/mcp` never becomes a stream.
        issue_sessions: Whether `initialize` creates a session.
        request_state_keys: The keys that seal `requestState`; see `SharedKeys`.
        times: The intervals and leases of the heartbeats.
    """

    def __init__(
        self,
        hosted: HostedServer,
        manager: SessionManager,
        log: EventLog,
        *,
        metrics: Metrics,
        stream_after: float,
        json_responses: bool,
        issue_sessions: bool,
        request_state_keys: Sequence[str] = (),
        times: MembershipTimes = DEFAULT_TIMES,
    ) -> None:
        self._server = hosted.server
        self._lifespan = ServerLifespan(hosted.server)
        self._manager = manager
        self._log = log
        self._metrics = metrics
        self._stream_timer = None if json_responses else SharedTimer(stream_after)
        self._issue_sessions = issue_sessions
        self._request_state_keys = request_state_keys
        self._is_running = False
        self._admission = Admission()
        self._tasks = BackgroundTasks()
        self._membership = Membership(log, manager, times, self._on_recovered)
        self._mailbox = Mailbox(log, self._membership)
        self._outgoing = OutgoingRequests(self._membership.name)
        self._calls = RunningCalls(self._tasks)
        self._readers = OpenReaders(log, self._is_alive, Orphans(log, self._membership), self._membership.name)
        self._standalone = StandaloneStreams(
            log, self._membership, self._mailbox, self._readers, self._tasks.spawn_detached
        )
        self._routing = Routing(
            self._mailbox,
            self._outgoing,
            self._tasks,
            cancel=self._calls.cancel,
            end_session=self._end_session_soon,
            drop_connection=lambda key: self._pool.drop(key),
        )
        self._streams = SessionStreams(
            log=log,
            readers=self._readers,
            standalone=self._standalone,
            calls=self._calls,
            admission=self._admission,
            tasks=self._tasks,
            is_alive=self._is_alive,
        )
        # These need what the server's lifespan yields: `running` makes them.
        self._pool: ConnectionPool
        self._handshake: Handshake
        self._messages: SessionMessages
        self._stateless: StatelessRequests

    @property
    def is_running(self) -> bool:
        """Whether the process is inside of `running`, so that requests can be served."""
        return self._is_running

    @property
    def draining(self) -> bool:
        """Whether this process refuses new work."""
        return self._admission.draining

    @property
    def lifespan_error(self) -> BaseException | None:
        """The exception that the server's lifespan has raised; `None` if it has raised none."""
        return self._lifespan.error

    # ------------------------------------------------------------------ life

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Enter the server's lifespan and join the other processes. On exit, end everything that still runs.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        announcements = Announcements(self._server, self._manager, self._log) if self._issue_sessions else None
        relay = EventRelay(self._server, self._mailbox, announcements)
        async with AsyncExitStack() as stack:
            stack.enter_context(contained_tasks())
            # Before the lifespan: it may publish that the server's tools have changed since its last start.
            stack.enter_context(relay.collecting())
            lifespan_state = await stack.enter_async_context(self._lifespan)
            # After the lifespan: it may configure tracing.
            stack.enter_context(without_idle_tracing(self._server))
            stack.enter_context(errors_of_handlers_shown(self._server))
            stack.enter_context(mistakes_answered(self._server))
            await stack.enter_async_context(
                shared_request_state(self._server, self._log, self._membership.name, self._request_state_keys)
            )
            self._connect(lifespan_state, announces_lists=relay.reaches_sessions)
            await self._membership.join()
            await self._mailbox.start()
            upkeep = [asyncio.create_task(self._keep_alive()), asyncio.create_task(self._membership.run())]
            try:
                async with relay.relaying():
                    self._is_running = True
                    yield
            finally:
                await self._end()
                self._is_running = False
                for task in upkeep:
                    task.cancel()
                await asyncio.gather(*upkeep, return_exceptions=True)
                await self._mailbox.stop()
                await self._membership.leave()

    def _connect(self, lifespan_state: Any, *, announces_lists: bool) -> None:
        """Make the parts that run the server's handlers."""
        connect = partial(
            SessionConnection,
            self._server,
            list_changed_options(self._server) if announces_lists else None,
            lifespan_state,
            self._manager,
            self._log,
            self._outgoing,
        )
        self._pool = ConnectionPool(connect, self._calls.__contains__)
        self._handshake = Handshake(self._manager, self._pool, self._outgoing, issue_sessions=self._issue_sessions)
        self._messages = SessionMessages(
            manager=self._manager,
            log=self._log,
            metrics=self._metrics,
            process=self._membership.name,
            admission=self._admission,
            tasks=self._tasks,
            stream_timer=self._stream_timer,
            calls=self._calls,
            pool=self._pool,
            outgoing=self._outgoing,
            routing=self._routing,
            standalone=self._standalone,
            on_session_gone=self._end_session_soon,
        )
        self._stateless = StatelessRequests(
            self._server,
            lifespan_state,
            self._manager,
            metrics=self._metrics,
            admission=self._admission,
            tasks=self._tasks,
            stream_timer=self._stream_timer,
        )

    async def drain(self, grace: float) -> None:
        """Refuse new work, and wait at most `grace` seconds for running calls; then cancel those that still run.

        The streams that wait for no running call of this process end at once. The client of a cancelled call gets an
        error.
        """
        self._admission.close()
        self._readers.close_open_ended()
        self._stateless.end_subscriptions()
        await self._tasks.wait(grace)
        await self._abort_all()

    async def _abort_all(self) -> None:
        self._stateless.abort_all(ErrorCode.SERVER_DRAINING)
        await self._calls.abort_all(ErrorCode.SERVER_DRAINING)

    async def _end(self) -> None:
        self._admission.close()
        await self._abort_all()
        self._readers.close_all()
        await self._tasks.cancel_all()
        if self._stream_timer is not None:
            self._stream_timer.close()
        await self._pool.close()

    async def _keep_alive(self) -> None:
        """Refresh the sessions that have a running call or an open stream, and end those that have ended elsewhere."""
        while True:
            await asyncio.sleep(self._manager.keepalive_interval)
            for key in {*self._calls.keys(), *self._readers.keys()}:
                try:
                    session = await self._manager.find(key)
                    if session is None or not await self._manager.refresh(session):
                        await self._end_session(key)
                    else:
                        await self._standalone.renew(key)
                except SessionError:
                    break  # the store is unavailable; the next turn tries again
                except Exception:
                    _log.exception("keepalive.failed", session=short_key(key))
            self._pool.drop_idle()

    def _on_recovered(self, mail_may_be_lost: bool) -> None:
        """Recover after this process was silent for so long that other processes may have declared it dead.

        Args:
            mail_may_be_lost: Whether they may also have removed its mailbox.
        """
        self._mailbox.reread()
        if mail_may_be_lost:
            self._outgoing.fail_all()

    # ------------------------------------------------------------------ sessions

    async def initialize(
        self, request: Request, client: ClientInfo, inbound: InboundRequest, session: Session | None
    ) -> HandshakeResult:
        """Negotiate, and create a session if there is none; see `Handshake.initialize`.

        Raises:
            SessionError: No session could be created, or `SERVER_DRAINING`.
        """
        self._admission.check()
        if session is not None:
            try:
                initialized = await self._handshake.initialize(request, client, inbound, session)
            except SessionError as error:
                if error.code not in (ErrorCode.SESSION_NOT_FOUND, ErrorCode.SESSION_EXPIRED):
                    raise
                # The session has ended since it was checked: the client gets a new one.
            else:
                await self._routing.session_renegotiated(session.key)
                return initialized
        return await self._handshake.initialize(request, client, inbound, None)

    async def create_session(self, value: JSONObject | None, client: ClientInfo) -> tuple[str, Session]:
        """Create a session without a handshake; see `Handshake.create_session`.

        Raises:
            SessionError: `INVALID_REQUEST`; no session could be created; or `SERVER_DRAINING`.
        """
        self._admission.check()
        return await self._handshake.create_session(value, client)

    async def terminate(self, session: Session) -> None:
        """End a session in every process: its record, its streams, its running calls.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._manager.terminate(session.key)
        await self._end_session(session.key)
        await self._routing.session_ended(session.key)

    async def _end_session(self, key: str) -> None:
        """End the calls, readers and connection that a session which has ended still has in this process."""
        calls = self._calls.of(key)
        for call in calls:
            call.abort(ErrorCode.SESSION_NOT_FOUND)
        # The clients get their answers before the readers end.
        for call in calls:
            await call.settled()
        self._readers.close(key)
        self._pool.drop(key)

    def _end_session_soon(self, key: str) -> None:
        self._tasks.spawn(self._end_session(key))

    async def _is_alive(self, key: str) -> bool:
        is_alive = await self._manager.find(key) is not None
        if not is_alive:
            self._end_session_soon(key)
        return is_alive

    # ------------------------------------------------------------------ messages and streams of a session

    async def post(
        self, session: Session, body: Any, inbound: InboundRequest, form: AnswerForm = AnswerForm.ANY
    ) -> SessionExchange | None:
        """Handle the body of a POST to `/mcp` in a session; see `SessionMessages.post`."""
        return await self._messages.post(session, body, inbound, form)

    async def send(self, session: Session, body: Any, inbound: InboundRequest) -> RequestId | None:
        """Accept one message for background work; see `SessionMessages.send`."""
        return await self._messages.send(session, body, inbound)

    async def end_refused_replies(self, session: Session, body: bytes, refused: SessionError) -> None:
        """End what waits for the replies in a refused request; see `SessionMessages.end_refused_replies`."""
        await self._messages.end_refused_replies(session, body, refused)

    async def abort(self, session: Session, request_id: RequestId) -> None:
        """Cancel a running request in any process; see `SessionMessages.abort`."""
        await self._messages.abort(session, request_id)

    async def open_stream(self, session: Session, last_event_id: str | None) -> StreamReader:
        """Return the reader that a GET asks for; see `SessionStreams.open`."""
        return await self._streams.open(session, last_event_id)

    def open_receiver(self, session: Session, after: str | None) -> StreamReader:
        """Return a reader of every stream that `/mcp/receive` shows; see `SessionStreams.open_receiver`."""
        return self._streams.open_receiver(session, after)

    async def poll(self, session: Session, after: str | None, wait: float) -> tuple[list[Event], str | None]:
        """Return the events after an event id, for a long poll of `/mcp/receive`; see `SessionStreams.poll`."""
        return await self._streams.poll(session, after, wait)

    def release(self, reader: StreamReader) -> None:
        """Release a reader that is no longer used."""
        self._streams.release(reader)

    # ------------------------------------------------------------------ requests without a session

    async def stateless(
        self, body: Any, inbound: InboundRequest, form: AnswerForm
    ) -> StatelessExchange | Answer | None:
        """Handle one message of the stateless era; see `StatelessRequests.handle`."""
        return await self._stateless.handle(body, inbound, form)

    def without_session(
        self, body: Any, protocol_version: str | None, inbound: InboundRequest, form: AnswerForm
    ) -> StatelessExchange | None:
        """Handle one handshake-era message without a session; see `StatelessRequests.handle_without_session`."""
        return self._stateless.handle_without_session(body, protocol_version, inbound, form)
