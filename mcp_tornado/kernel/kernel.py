"""The kernel: what the web layer calls to have MCP messages handled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, is_version_at_least
from starlette.requests import Request as StarletteRequest

from mcp_tornado import jsonrpc
from mcp_tornado.cluster.mailbox import Mailbox
from mcp_tornado.cluster.membership import DEFAULT_TIMES, Membership, MembershipTimes
from mcp_tornado.hosting.context import session_context, sessionless_context
from mcp_tornado.hosting.host import HostedServer, without_idle_tracing
from mcp_tornado.hosting.request import InboundRequest
from mcp_tornado.hosting.request_state import shared_request_state
from mcp_tornado.jsonrpc import JSONObject, Message, Notification, Reply, Request, RequestId
from mcp_tornado.kernel.announcements import Announcements, announcing
from mcp_tornado.kernel.calls import Call, CallContext
from mcp_tornado.kernel.connections import ConnectionPool, SessionConnection
from mcp_tornado.kernel.handshake import Handshake, Initialized
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.kernel.routing import Routing
from mcp_tornado.kernel.stateless import LISTEN, Handle, StatelessEra, StatelessExchange
from mcp_tornado.kernel.subscriptions import EventRelay
from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import (
    ClientInfo,
    ErrorCode,
    Event,
    EventId,
    EventLog,
    Session,
    SessionError,
    SessionGone,
    SessionManager,
    short_key,
)
from mcp_tornado.sessions.journal import JOURNALED_METHODS, has_room, with_entry
from mcp_tornado.streams.names import BACKGROUND, RESPONSE, STANDALONE, is_received, position_before
from mcp_tornado.streams.orphans import Orphans
from mcp_tornado.streams.reader import StreamReader
from mcp_tornado.streams.readers import StreamReaders
from mcp_tornado.streams.responses import Answer, ResponseStream, SessionExchange
from mcp_tornado.streams.standalone import StandaloneStreams
from mcp_tornado.streams.timers import SharedTimer

_log = get_logger(__name__)

_BATCH_VERSION: Final = "2025-03-26"
_MAX_BATCH: Final = 1000
_PRIMED_VERSIONS: Final = frozenset(
    version for version in HANDSHAKE_PROTOCOL_VERSIONS if is_version_at_least(version, "2025-11-25")
)
"""The revisions whose clients understand a priming event, and so can come back to a stream that was closed."""
_UNNEGOTIATED_VERSION: Final = "2025-03-26"
"""What a request without `MCP-Protocol-Version` and without a session speaks (MCP 2025-06-18, basic/transports)."""

_RECEIVE_LIMIT: Final = 100
_TELLING_SECONDS: Final = 5.0
"""How long an end waits until the clients of what still ran are told: the store may be away."""


class Kernel:
    """Runs a hosted server's handlers for HTTP requests, and keeps the streams of this process.

    Args:
        hosted: The server.
        manager: The sessions.
        log: The events of the sessions, behind the store's guard.
        metrics: The metrics.
        stream_after: Seconds after which a POST that emitted nothing becomes a stream.
        json_responses: Whether a POST on `/mcp` never becomes a stream.
        issue_sessions: Whether `initialize` makes a session.
        request_state_keys: With which `requestState` is sealed; see `SharedKeys`.
        times: The times of the heartbeats; see `MembershipTimes`.
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
        self._manager = manager
        self._log = log
        self._metrics = metrics
        self._patience = None if json_responses else SharedTimer(stream_after)
        self._issue_sessions = issue_sessions
        self._request_state_keys = request_state_keys
        self._membership = Membership(log, manager, times, self._revived)
        process = self._membership.name
        self._mailbox = Mailbox(log, self._membership)
        self._outgoing = OutgoingRequests(process)
        self._calls: dict[str, list[Call]] = {}
        self._readers = StreamReaders(log, self._lives, Orphans(log, self._membership), process)
        self._standalone = StandaloneStreams(log, self._membership, self._mailbox, self._readers, self._spawn_detached)
        self._routing = Routing(
            self._mailbox,
            self._outgoing,
            self._cancel,
            self._forget_soon,
            lambda key: self._pool.drop(key),
            self._spawn,
            self._spawn_detached,
        )
        self._exchanges: set[StatelessExchange] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        """What a drain waits for."""
        self._aside: set[asyncio.Task[Any]] = set()
        """What it does not wait for."""
        self._draining = False
        self._pool: ConnectionPool
        self._handshake: Handshake
        self._stateless: StatelessEra

    @property
    def draining(self) -> bool:
        """Whether new work is refused."""
        return self._draining

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Enter the server's lifespan and join the other processes; on leaving, end whatever still runs.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        announcements = Announcements(self._server, self._manager, self._log) if self._issue_sessions else None
        published = EventRelay(self._server, self._mailbox, announcements)
        async with AsyncExitStack() as stack:
            # Before the lifespan, which may say that the server now has other tools than before it was started anew.
            stack.enter_context(published.noted())
            lifespan_state = await stack.enter_async_context(self._server.lifespan(self._server))
            # After the lifespan: it may be what sets tracing up.
            stack.enter_context(without_idle_tracing(self._server))
            sealed = shared_request_state(self._server, self._log, self._membership.name, self._request_state_keys)
            await stack.enter_async_context(sealed)
            options = announcing(self._server) if published.reaches_sessions else None
            connect = partial(
                SessionConnection, self._server, options, lifespan_state, self._manager, self._log, self._outgoing
            )
            self._pool = ConnectionPool(connect, self._calls.__contains__)
            self._handshake = Handshake(self._manager, self._pool, self._outgoing, issue_sessions=self._issue_sessions)
            self._stateless = StatelessEra(self._server, lifespan_state)
            await self._membership.join()
            await self._mailbox.start()
            keepers = [asyncio.create_task(self._keep_alive()), asyncio.create_task(self._membership.run())]
            try:
                async with published.told():
                    yield
            finally:
                await self._end()
                for keeper in keepers:
                    keeper.cancel()
                await asyncio.gather(*keepers, return_exceptions=True)
                await self._mailbox.stop()
                await self._membership.leave()

    # ------------------------------------------------------------------ sessions

    async def initialize(
        self, request: Request, client: ClientInfo, inbound: InboundRequest, session: Session | None
    ) -> Initialized:
        """Negotiate, and make a session where there is none; see `Handshake.initialize`.

        Raises:
            SessionError: No session could be made, or the server is draining.
        """
        self._check_draining()
        initialized = await self._handshake.initialize(request, client, inbound, session)
        if session is not None:
            await self._routing.session_renegotiated(session.key)
        return initialized

    async def create_session(self, value: JSONObject | None, client: ClientInfo) -> tuple[str, Session]:
        """Make a session without a handshake; see `Handshake.create_session`.

        Raises:
            SessionError: `INVALID_REQUEST`; no session could be made; or the server is draining.
        """
        self._check_draining()
        return await self._handshake.create_session(value, client)

    async def terminate(self, session: Session) -> None:
        """End a session everywhere: its record, its streams, its running calls.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._manager.terminate(session.key)
        await self._forget(session.key)
        await self._routing.session_ended(session.key)

    async def _forget(self, key: str) -> None:
        """End what a session that is gone still has in this process; whoever waits for a call is told first."""
        calls = list(self._calls.get(key, ()))
        for call in calls:
            call.abort(ErrorCode.SESSION_NOT_FOUND)
        for call in calls:
            await call.settled()
        self._readers.close(key)
        self._pool.drop(key)

    def _forget_soon(self, key: str) -> None:
        self._spawn(self._forget(key))

    def _revived(self, lost_mail: bool) -> None:
        self._mailbox.reread()
        if lost_mail:
            self._outgoing.give_up()

    # ------------------------------------------------------------------ messages of a session

    async def post(self, session: Session, body: Any, inbound: InboundRequest) -> SessionExchange | None:
        """Handle what was POSTed to `/mcp` in a session: a message, or a batch where its revision has them.

        Returns:
            What answers the requests in it, or `None` where it holds none: it is accepted.

        Raises:
            SessionError: `INVALID_REQUEST`, or the server is draining.
        """
        batch = jsonrpc.is_list(body)
        parsed = self._parse_batch(session, body) if jsonrpc.is_list(body) else [jsonrpc.parse(body)]
        requests = [message for message in parsed if isinstance(message, Request)]
        stream = None
        if requests:
            self._check_draining()
            stream = ResponseStream(
                self._log,
                session.key,
                RESPONSE,
                process=self._membership.name,
                requests=[request.id for request in requests],
                primed=session.protocol_version in _PRIMED_VERSIONS,
                as_list=batch,
                may_stream=self._patience is not None,
                on_session_gone=partial(self._forget_soon, session.key),
            )
        await self._handle(session, parsed, stream, inbound)
        return SessionExchange(stream, self._patience) if stream is not None else None

    async def send(self, session: Session, body: Any, inbound: InboundRequest) -> RequestId | None:
        """Accept one message for background work; its answer goes where `receive` finds it.

        Returns:
            The request's id, or `None` where the message is no request.

        Raises:
            SessionError: `INVALID_REQUEST`, `SESSION_NOT_FOUND`, `STORE_UNAVAILABLE`, or the server is draining.
        """
        message = jsonrpc.parse(body)
        stream = None
        if isinstance(message, Request):
            if message.method == "initialize":
                raise SessionError(ErrorCode.INVALID_REQUEST, "initialize is sent to the MCP endpoint itself")
            self._check_draining()
            # Primed, so that the call is known to all processes before it is accepted.
            stream = ResponseStream(
                self._log,
                session.key,
                BACKGROUND,
                process=self._membership.name,
                requests=[message.id],
                primed=True,
                on_session_gone=partial(self._forget_soon, session.key),
            )
            stream.mark_disconnected()
            try:
                await stream.open()
            except SessionGone as gone:
                raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended") from gone
        await self._handle(session, [message], stream, inbound)
        return message.id if isinstance(message, Request) else None

    async def abort(self, session: Session, request_id: RequestId) -> None:
        """Cancel a running request of a session, wherever it runs; returns once its process has it.

        Raises:
            SessionError: `REQUEST_NOT_FOUND`, `STORE_UNAVAILABLE`.
        """
        if not await self._routing.abort(session.key, request_id):
            raise SessionError(ErrorCode.REQUEST_NOT_FOUND)

    def _cancel(self, key: str, digest: str) -> bool:
        """Cancel a request that runs in this process; say whether there is one."""
        # The newest that has no answer yet: clients reuse ids.
        calls = reversed(self._calls.get(key, ()))
        return any(call.cancel() for call in calls if jsonrpc.digest(call.request.id) == digest)

    def _parse_batch(self, session: Session, body: Sequence[Any]) -> list[Message]:
        if session.protocol_version != _BATCH_VERSION:
            raise SessionError(
                ErrorCode.INVALID_REQUEST,
                f"Revision {session.protocol_version} of MCP has no batches: send one message at a time",
            )
        parsed = [jsonrpc.parse(value) for value in body]
        if not parsed:
            raise SessionError(ErrorCode.INVALID_REQUEST, "A batch holds at least one message")
        if len(parsed) > _MAX_BATCH:
            raise SessionError(ErrorCode.INVALID_REQUEST, f"A batch holds at most {_MAX_BATCH} messages")
        if any(isinstance(message, Request) and message.method == "initialize" for message in parsed):
            raise SessionError(ErrorCode.INVALID_REQUEST, "initialize cannot be part of a batch")
        return parsed

    async def _handle(
        self, session: Session, parsed: Sequence[Message], stream: ResponseStream | None, inbound: InboundRequest
    ) -> None:
        shown = inbound.shown(session.key)
        connection = await self._pool.get(session, shown)
        for message in parsed:
            if isinstance(message, Reply):
                await self._routing.reply(session.key, message)
            elif isinstance(message, Notification):
                await self._notify(session, connection, message, shown)
            elif stream is not None:
                self._call(session, connection, message, stream, shown)

    def _call(
        self,
        session: Session,
        connection: SessionConnection,
        request: Request,
        stream: ResponseStream,
        shown: StarletteRequest,
    ) -> None:
        resumable = stream.may_stream and session.protocol_version in _PRIMED_VERSIONS
        context = CallContext(
            session.key,
            request,
            stream,
            shown,
            self._outgoing,
            close_stream=stream.close_connection if resumable else None,
            close_standalone=partial(self._standalone.close, session.key) if resumable else None,
        )
        call = Call(request, context, stream, metrics=self._metrics, spawn=self._spawn)
        self._calls.setdefault(session.key, []).append(call)
        journaled = request.method in JOURNALED_METHODS
        with session_context(self._manager, session):
            if journaled and not has_room(session.journal, request.method, request.params or {}):
                task = call.refuse(_journal_full())
            elif journaled:
                task = call.start(connection.on_request, partial(self._journal, session.key, connection, request))
            else:
                task = call.start(connection.on_request)
        self._tasks.add(task)
        task.add_done_callback(partial(self._call_done, session.key, call))

    def _call_done(self, key: str, call: Call, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if call.is_being_answered:
            # Whoever resumes its stream in this moment must not take it for ended.
            self._spawn_detached(self._remove_once_answered(key, call))
        else:
            self._remove(key, call)

    async def _remove_once_answered(self, key: str, call: Call) -> None:
        await call.settled()
        self._remove(key, call)

    def _remove(self, key: str, call: Call) -> None:
        calls = self._calls[key]
        calls.remove(call)
        if not calls:
            del self._calls[key]

    async def _lives(self, key: str) -> bool:
        lives = await self._manager.find(key) is not None
        if not lives:
            self._spawn(self._forget(key))
        return lives

    async def _journal(self, key: str, connection: SessionConnection, request: Request) -> None:
        """Keep a session-scoped request, for other processes to repeat."""

        def change(session: Session) -> Mapping[str, Any]:
            if not has_room(session.journal, request.method, request.params or {}):
                raise _journal_full()
            journal = with_entry(session.journal, request.method, request.params or {})
            return {} if journal == tuple(session.journal) else {"journal": list(journal)}

        connection.applied(await self._manager.update(key, change))

    async def _notify(
        self, session: Session, connection: SessionConnection, notification: Notification, shown: StarletteRequest
    ) -> None:
        if notification.method == "notifications/cancelled":
            request_id = (notification.params or {}).get("requestId")
            if jsonrpc.is_request_id(request_id):
                await self._routing.cancel(session.key, request_id)
        elif notification.method == "notifications/progress":
            await self._routing.progress(session.key, notification)
        elif notification.method == "notifications/initialized" and not session.initialized:
            updated = await self._manager.update(
                session.key, lambda current: {} if current.initialized else {"initialized": True}
            )
            connection.applied(updated)
        context = CallContext(session.key, None, None, shown, self._outgoing)
        with session_context(self._manager, session):
            self._spawn(_contained(connection.on_notify(context, notification.method, notification.params)))

    # ------------------------------------------------------------------ streams of a session

    async def standalone(self, session: Session, last_event_id: str | None) -> StreamReader:
        """Return who reads the stream that a GET asks for: the standalone one, or the one of `last_event_id`.

        An id that is unknown, or another session's, reads nothing.

        Raises:
            SessionError: `SESSION_CONFLICT`: another GET holds the standalone stream, and this one does not
                resume it; the server is draining, and it is not the answer to a call that is asked for;
                `STORE_UNAVAILABLE`.
        """
        key, event_id = session.key, None
        client_reconnects = session.protocol_version in _PRIMED_VERSIONS
        if last_event_id is not None:
            event_id = EventId.parse(last_event_id)
            if event_id is None or not event_id.belongs_to(key):
                return self._readers.open_empty(key)
            if event_id.stream != STANDALONE:
                runs_here = any(call.stream.name == event_id.stream for call in self._calls.get(key, ()))
                return await self._readers.resume(
                    key, event_id, runs_here=runs_here, client_reconnects=client_reconnects
                )
        self._check_draining()
        reader = self._readers.open_standalone(key, last_event_id, client_reconnects=client_reconnects)
        try:
            await self._standalone.acquire(key, take_over=event_id is not None)
        except BaseException:
            self.release(reader)
            raise
        return reader

    def receiver(self, session: Session, after: str | None) -> StreamReader:
        """Return who reads all that `/mcp/receive` shows, as a stream.

        Raises:
            SessionError: The server is draining.
        """
        self._check_draining()
        return self._readers.open_received(session.key, after)

    async def receive(self, session: Session, after: str | None, wait: float) -> tuple[list[Event], str | None]:
        """Return what the server has for a session after an event id, waiting at most `wait` seconds for it.

        Returns:
            At most 100 events without priming events, and the id to go on after: where there is no event, the
            `after` that was given.

        Raises:
            SessionError: `SESSION_NOT_FOUND`: the session ended while waiting; the server is draining, and there is
                nothing now; `STORE_UNAVAILABLE`.
        """
        refused = self._draining
        reader = self._readers.open_received(session.key, after)
        try:
            first = await _first_message(reader, 0 if refused else wait)
        finally:
            self._readers.release(reader)
        if first is None:
            if refused:
                raise SessionError(ErrorCode.SERVER_DRAINING)
            if not self._draining and not await self._lives(session.key):
                raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended")
            return [], after
        events = await self._log.read(session.key, position_before(first), limit=_RECEIVE_LIMIT)
        shown = [event for event in events if is_received(event.stream) and event.message is not None]
        return shown, shown[-1].id if shown else after

    def release(self, reader: StreamReader) -> None:
        """Say that a reader is no longer read."""
        if self._readers.release(reader):
            self._spawn_detached(self._standalone.release(reader.key))

    # ------------------------------------------------------------------ requests that stand alone

    async def stateless(
        self, body: Any, inbound: InboundRequest, *, accepts_stream: bool
    ) -> StatelessExchange | Answer | None:
        """Handle one message of the stateless era (MCP 2026-07-28, basic/transports).

        Returns:
            What answers a request, the answer that refuses the message, or `None`: accepted.

        Raises:
            SessionError: `INVALID_REQUEST`, `NOT_ACCEPTABLE`, or the server is draining.
        """
        message = jsonrpc.parse(body)
        if isinstance(message, Notification):
            return self._stateless.check_notification(inbound)
        if isinstance(message, Reply):
            raise SessionError(ErrorCode.INVALID_REQUEST, "This revision of MCP has no responses of the client's")
        self._check_draining()
        if message.method == LISTEN and not accepts_stream:
            raise SessionError(ErrorCode.NOT_ACCEPTABLE, f"{LISTEN} is answered with text/event-stream")
        route = await self._stateless.classify(body, message, inbound)
        if isinstance(route, Answer):
            return route
        return self._stand_alone(
            message,
            inbound,
            partial(self._stateless.run, message, route, inbound.shown(None)),
            always_streams=message.method == LISTEN,
        )

    def without_session(
        self, body: Any, protocol_version: str | None, inbound: InboundRequest
    ) -> StatelessExchange | None:
        """Handle one handshake-era message on its own, for a client that holds no session.

        Args:
            body: The message.
            protocol_version: What `MCP-Protocol-Version` said; `None` where it was not sent.
            inbound: The HTTP request.

        Returns:
            What answers a request, or `None`: the message is accepted, and dropped.

        Raises:
            SessionError: `INVALID_REQUEST`, or the server is draining.
        """
        message = jsonrpc.parse(body)
        if not isinstance(message, Request):
            return None
        self._check_draining()
        version = protocol_version if protocol_version is not None else _UNNEGOTIATED_VERSION
        return self._stand_alone(
            message, inbound, partial(self._stateless.run_without_session, message, version, inbound.shown(None))
        )

    def _stand_alone(
        self,
        request: Request,
        inbound: InboundRequest,
        handle: Handle,
        *,
        always_streams: bool = False,
    ) -> StatelessExchange:
        exchange = StatelessExchange(
            request, handle, patience=self._patience, always_streams=always_streams, metrics=self._metrics
        )
        self._exchanges.add(exchange)
        with sessionless_context(self._manager, inbound):
            task = self._spawn(exchange.run())
        task.add_done_callback(lambda _: self._exchanges.discard(exchange))
        return exchange

    # ------------------------------------------------------------------ living and ending

    async def drain(self, grace: float) -> None:
        """Refuse new work, let streams without a call end, and wait for running calls at most `grace` seconds.

        What still runs then is cancelled, and its clients are told.
        """
        self._draining = True
        self._readers.close_open_ended()
        if not self._stateless.end_subscriptions():
            for exchange in list(self._exchanges):
                if exchange.request.method == LISTEN:
                    exchange.abort(ErrorCode.SERVER_DRAINING)
        busy = [task for task in self._tasks if not task.done()]
        if busy:
            await asyncio.wait(busy, timeout=grace)
        await self._abort_all()

    async def _abort_all(self) -> None:
        calls = [call for calls in self._calls.values() for call in calls]
        for call in calls:
            call.abort(ErrorCode.SERVER_DRAINING)
        for exchange in list(self._exchanges):
            exchange.abort(ErrorCode.SERVER_DRAINING)
        telling = [asyncio.ensure_future(call.settled()) for call in calls]
        if telling:
            await asyncio.wait(telling, timeout=_TELLING_SECONDS)

    async def _end(self) -> None:
        self._draining = True
        await self._abort_all()
        self._readers.close_all()
        tasks = [*self._tasks, *self._aside]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._patience is not None:
            self._patience.close()
        await self._pool.close()

    async def _keep_alive(self) -> None:
        """Refresh the sessions that have a running call or an open stream, and notice those that ended elsewhere."""
        while True:
            await asyncio.sleep(self._manager.keepalive_interval)
            for key in {*self._calls, *self._readers.keys()}:
                try:
                    session = await self._manager.find(key)
                    if session is None or not await self._manager.refresh(session):
                        await self._forget(key)
                    else:
                        await self._standalone.renew(key)
                except SessionError:
                    break  # the store is away: it may be back at the next turn
                except Exception:
                    _log.exception("keepalive.failed", session=short_key(key))
            self._pool.drop_idle()

    def _check_draining(self) -> None:
        if self._draining:
            raise SessionError(ErrorCode.SERVER_DRAINING)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return _kept(asyncio.create_task(work), self._tasks)

    def _spawn_detached(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return _kept(asyncio.create_task(work), self._aside)


def _kept(task: asyncio.Task[None], tasks: set[asyncio.Task[Any]]) -> asyncio.Task[None]:
    """Return a task that stands in a set as long as it runs."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _journal_full() -> SessionError:
    return SessionError(ErrorCode.INVALID_REQUEST, "This session has too many subscriptions: end some first")


async def _first_message(reader: StreamReader, patience: float) -> str | None:
    """Return the id of the first message that a reader finds within `patience` seconds, or `None`."""
    async with aclosing(reader.frames(patience)) as frames:
        async for frame in frames:
            if frame is None or frame.message is not None:
                return frame.id if frame is not None else None
    return None


async def _contained(work: Awaitable[None]) -> None:
    """Run a notification's handler; nobody is told when it fails."""
    try:
        await work
    except Exception:
        _log.exception("notification.failed")
