"""The messages that a client sends in a session: requests, notifications and replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, is_version_at_least
from starlette.requests import Request as StarletteRequest

from mcp_tornado import jsonrpc
from mcp_tornado.hosting.context import session_context
from mcp_tornado.hosting.request import InboundRequest
from mcp_tornado.jsonrpc import Message, Notification, Reply, Request, RequestId
from mcp_tornado.kernel.admission import Admission
from mcp_tornado.kernel.calls import Call, CallContext, log_failed_handler
from mcp_tornado.kernel.connections import ConnectionPool, SessionConnection
from mcp_tornado.kernel.containment import contain, is_task_cancelled
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.kernel.routing import Routing
from mcp_tornado.kernel.running_calls import RunningCalls
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import ErrorCode, EventLog, Session, SessionError, SessionGone, SessionManager
from mcp_tornado.sessions.errors import INVALID_REQUEST
from mcp_tornado.sessions.journal import JOURNALED_METHODS, has_room, with_entry
from mcp_tornado.streams.names import BACKGROUND, RESPONSE
from mcp_tornado.streams.responses import AnswerForm, ResponseStream, SessionExchange
from mcp_tornado.streams.standalone import StandaloneStreams
from mcp_tornado.streams.tasks import BackgroundTasks
from mcp_tornado.streams.timers import SharedTimer

PRIMED_VERSIONS: Final = frozenset(
    version for version in HANDSHAKE_PROTOCOL_VERSIONS if is_version_at_least(version, "2025-11-25")
)
"""The revisions of MCP with priming events: events that have an id and no message. With that id a client can resume a
stream that was closed before its first message."""

_BATCH_VERSION: Final = "2025-03-26"
_MAX_BATCH: Final = 1000


class SessionMessages:
    """Handles the messages of the sessions: starts calls, and routes replies, progress and cancellations.

    Args:
        manager: The sessions.
        log: The event log of the sessions.
        metrics: Counts tool calls.
        process: The name of this process; it is part of the name of each stream.
        admission: Refuses new calls during a drain.
        tasks: Keeps the tasks that handlers run in.
        stream_timer: Calls back when a POST has sent nothing for `events.stream_after_seconds`; `None` if a POST never
            becomes a stream.
        calls: The calls that run in this process.
        pool: The SDK's connections.
        outgoing: The server requests that wait for a reply.
        routing: Reaches the process that a message concerns.
        standalone: The standalone streams.
        on_session_gone: Called with the key of a session that is found to have ended.
    """

    def __init__(
        self,
        *,
        manager: SessionManager,
        log: EventLog,
        metrics: Metrics,
        process: str,
        admission: Admission,
        tasks: BackgroundTasks,
        stream_timer: SharedTimer | None,
        calls: RunningCalls,
        pool: ConnectionPool,
        outgoing: OutgoingRequests,
        routing: Routing,
        standalone: StandaloneStreams,
        on_session_gone: Callable[[str], None],
    ) -> None:
        self._manager = manager
        self._log = log
        self._metrics = metrics
        self._process = process
        self._admission = admission
        self._tasks = tasks
        self._stream_timer = stream_timer
        self._calls = calls
        self._pool = pool
        self._outgoing = outgoing
        self._routing = routing
        self._standalone = standalone
        self._on_session_gone = on_session_gone

    async def post(
        self, session: Session, body: Any, inbound: InboundRequest, form: AnswerForm
    ) -> SessionExchange | None:
        """Handle the body of a POST to `/mcp`: one message, or a batch if the session's revision of MCP has them.

        Returns:
            The exchange that answers the requests of the body. `None` if the body contains no request and so needs no
            answer.

        Raises:
            SessionError: `INVALID_REQUEST`, or `SERVER_DRAINING`.
        """
        is_batch = jsonrpc.is_list(body)
        messages = _parse_batch(session, body) if jsonrpc.is_list(body) else [jsonrpc.parse(body)]
        requests = [message for message in messages if isinstance(message, Request)]
        stream = None
        stream_timer = self._stream_timer if form is not AnswerForm.JSON else None
        if requests:
            self._admission.check()
            stream = ResponseStream(
                self._log,
                session.key,
                RESPONSE,
                process=self._process,
                requests=[request.id for request in requests],
                primed=session.protocol_version in PRIMED_VERSIONS,
                as_list=is_batch,
                may_stream=stream_timer is not None,
                on_session_gone=partial(self._on_session_gone, session.key),
            )
        await self._handle(session, messages, stream, inbound)
        if stream is None:
            return None
        return SessionExchange(stream, stream_timer, always_streams=form is AnswerForm.STREAM)

    async def send(self, session: Session, body: Any, inbound: InboundRequest) -> RequestId | None:
        """Accept one message for background work. Its answer goes to the streams that `/mcp/receive` shows.

        Returns:
            The request's id; `None` if the message is not a request.

        Raises:
            SessionError: `INVALID_REQUEST`, `SESSION_NOT_FOUND`, `STORE_UNAVAILABLE` or `SERVER_DRAINING`.
        """
        message = jsonrpc.parse(body)
        stream = None
        if isinstance(message, Request):
            if message.method == "initialize":
                raise SessionError(ErrorCode.INVALID_REQUEST, "initialize is sent to the MCP endpoint itself")
            self._admission.check()
            # The priming event makes the call known to all processes before the client gets its 202.
            stream = ResponseStream(
                self._log,
                session.key,
                BACKGROUND,
                process=self._process,
                requests=[message.id],
                primed=True,
                on_session_gone=partial(self._on_session_gone, session.key),
            )
            stream.mark_disconnected()
            try:
                await stream.open()
            except SessionGone as gone:
                raise SessionError(ErrorCode.SESSION_NOT_FOUND, reason="ended") from gone
        await self._handle(session, [message], stream, inbound)
        return message.id if isinstance(message, Request) else None

    async def end_refused_replies(self, session: Session, body: bytes, refused: SessionError) -> None:
        """End the server requests whose replies a refused request contains: no other reply will come.

        The handlers that wait for these replies get an error, in whichever process they run.

        Args:
            session: The session.
            body: The body of the request.
            refused: The error that the client gets.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        error = {"code": INVALID_REQUEST, "message": f"The client's reply was refused: {refused.message}"}
        for request_id in sorted(jsonrpc.reply_ids(body))[:_MAX_BATCH]:
            await self._routing.reply(session.key, Reply(request_id, None, error))

    async def abort(self, session: Session, request_id: RequestId) -> None:
        """Cancel a running request of a session in any process; return when its process has received that.

        Raises:
            SessionError: `REQUEST_NOT_FOUND`, `STORE_UNAVAILABLE`.
        """
        if not await self._routing.abort(session.key, request_id):
            raise SessionError(ErrorCode.REQUEST_NOT_FOUND)

    async def _handle(
        self, session: Session, messages: Sequence[Message], stream: ResponseStream | None, inbound: InboundRequest
    ) -> None:
        http_request = inbound.to_starlette(session.key)
        connection = await self._pool.get(session, http_request)
        for message in messages:
            if isinstance(message, Reply):
                await self._routing.reply(session.key, message)
            elif isinstance(message, Notification):
                await self._notify(session, connection, message, http_request)
            elif stream is not None:
                self._call(session, connection, message, stream, http_request)

    def _call(
        self,
        session: Session,
        connection: SessionConnection,
        request: Request,
        stream: ResponseStream,
        http_request: StarletteRequest,
    ) -> None:
        is_resumable = stream.may_stream and session.protocol_version in PRIMED_VERSIONS
        context = CallContext(
            session.key,
            request,
            stream,
            http_request,
            self._outgoing,
            close_stream=stream.close_connection if is_resumable else None,
            close_standalone=partial(self._standalone.close, session.key) if is_resumable else None,
        )
        call = Call(request, context, stream, metrics=self._metrics, spawn=self._tasks.spawn)
        self._calls.add(session.key, call)
        is_journaled = request.method in JOURNALED_METHODS
        with session_context(self._manager, session):
            if is_journaled and not has_room(session.journal, request.method, request.params or {}):
                task = call.refuse(_journal_full())
            elif is_journaled:
                task = call.start(connection.on_request, partial(self._journal, session.key, connection, request))
            else:
                task = call.start(connection.on_request)
        self._calls.track(session.key, call, task)

    async def _journal(self, key: str, connection: SessionConnection, request: Request) -> None:
        """Add a request to the session's journal, so that other processes repeat it."""

        def change(session: Session) -> Mapping[str, Any]:
            if not has_room(session.journal, request.method, request.params or {}):
                raise _journal_full()
            journal = with_entry(session.journal, request.method, request.params or {})
            return {} if journal == tuple(session.journal) else {"journal": list(journal)}

        connection.applied(await self._manager.update(key, change))

    async def _notify(
        self,
        session: Session,
        connection: SessionConnection,
        notification: Notification,
        http_request: StarletteRequest,
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
        context = CallContext(session.key, None, None, http_request, self._outgoing)
        with session_context(self._manager, session):
            self._tasks.spawn(_notify_handler(connection, context, notification, session.key))


def _parse_batch(session: Session, body: Sequence[Any]) -> list[Message]:
    if session.protocol_version != _BATCH_VERSION:
        raise SessionError(
            ErrorCode.INVALID_REQUEST,
            f"Revision {session.protocol_version} of MCP has no batches: send one message at a time",
        )
    messages = [jsonrpc.parse(value) for value in body]
    if not messages:
        raise SessionError(ErrorCode.INVALID_REQUEST, "A batch holds at least one message")
    if len(messages) > _MAX_BATCH:
        raise SessionError(ErrorCode.INVALID_REQUEST, f"A batch holds at most {_MAX_BATCH} messages")
    if any(isinstance(message, Request) and message.method == "initialize" for message in messages):
        raise SessionError(ErrorCode.INVALID_REQUEST, "initialize cannot be part of a batch")
    return messages


def _journal_full() -> SessionError:
    return SessionError(ErrorCode.INVALID_REQUEST, "This session has too many subscriptions: end some first")


async def _notify_handler(
    connection: SessionConnection, context: CallContext, notification: Notification, session_key: str
) -> None:
    """Run the handler of a notification. The client gets no answer to it, so a failure is only logged."""
    method, params = notification.method, notification.params
    try:
        await contain(connection.on_notify(context, method, params), is_task_cancelled)
    except Exception as error:
        log_failed_handler("notification.failed", error, method, params, session_key)
