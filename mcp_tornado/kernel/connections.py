"""The SDK's connection objects of this process: a cache of the stored sessions, updated from the store when used."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import anyio.abc
from mcp.server.connection import Connection
from mcp.server.lowlevel.server import Server
from mcp.server.models import InitializationOptions
from mcp.server.runner import serve_connection
from mcp.shared.dispatcher import CallOptions, OnNotify, OnNotifyIntercept, OnRequest
from mcp_types import InitializeRequestParams
from starlette.requests import Request as StarletteRequest

from mcp_tornado import jsonrpc
from mcp_tornado.hosting.context import session_context
from mcp_tornado.kernel.calls import CallContext, log_failed_handler
from mcp_tornado.kernel.containment import HandlerEscape, contain, is_task_cancelled
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, Session, SessionError, SessionGone, SessionManager, short_key
from mcp_tornado.sessions.journal import SUBSCRIBE, UNSUBSCRIBE, Journal, is_known, subscribed_uris
from mcp_tornado.streams.append import StreamAppender
from mcp_tornado.streams.names import STANDALONE

_log = get_logger(__name__)

MAX_CONNECTIONS: Final = 4096
"""Number of connections above which the pool drops the one that was unused for longest. A connection whose session has
a running call is not dropped for this reason, so there can be more."""
IDLE_SECONDS: Final = 300.0
"""How long an unused connection is kept."""

_RETRY_SECONDS: Final = 10.0
"""How long a message on the standalone stream is retried while the store is unavailable."""


class SessionConnection:
    """One session in this process: the SDK's `Connection`, kept up to date with the stored record.

    It is the SDK's `Dispatcher` for that connection. What the server sends outside of any request goes to the
    session's standalone stream, even after the connection was dropped from the cache.
    """

    def __init__(
        self,
        server: Server[Any],
        init_options: InitializationOptions | None,
        lifespan_state: Any,
        manager: SessionManager,
        log: EventLog,
        outgoing: OutgoingRequests,
    ) -> None:
        self._server = server
        self._init_options = init_options
        """The options that the server declares in a handshake; `None` uses the server's own."""
        self._lifespan_state = lifespan_state
        self._manager = manager
        self._log = log
        self._outgoing = outgoing
        self._key = ""
        self._params: Mapping[str, Any] | None = None
        """The params of the client's `initialize`; `None` until the session is known."""
        self._revision = -1
        self._journal: Journal = ()
        self._standalone: StreamAppender | None = None
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self.connection: Final = Connection.for_loop(self)
        self.last_used = time.monotonic()
        self.on_request: OnRequest
        self.on_notify: OnNotify

    async def start(self) -> None:
        """Start the SDK's server loop; return when the connection accepts requests."""
        started = asyncio.Event()
        self._task = asyncio.create_task(self._serve(_Started(started)))
        await started.wait()

    async def _serve(self, task_status: anyio.abc.TaskStatus[None]) -> None:
        serving = serve_connection(
            self._server,
            self,
            connection=self.connection,
            lifespan_state=self._lifespan_state,
            init_options=self._init_options,
            task_status=task_status,
        )
        try:
            await contain(serving, is_task_cancelled)
        except HandlerEscape:  # what the server keeps on the connection could not be closed
            _log.exception("connection.failed", session=short_key(self._key))

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Keep the entry points that the SDK passes to its dispatcher, and wait until `close`; see its `Dispatcher`."""
        self.on_request, self.on_notify = on_request, on_notify
        task_status.started()
        await self._closing.wait()

    async def close(self) -> None:
        """Close what the server keeps on this connection, and wait until that is done."""
        self._closing.set()
        if self._task is not None:
            await self._task

    def bind(self, session: Session) -> None:
        """Assign the connection to the session that `initialize` has created or negotiated again."""
        self._key = self.connection.session_id = session.key
        self._params = session.client_params
        self._revision = session.revision

    async def catch_up(self, session: Session, http_request: StarletteRequest) -> None:
        """Bring the connection up to date with the stored session; repeat the journal entries that it has not seen.

        The handlers of repeated entries see the current HTTP request: the original requests no longer exist.
        """
        if not self.is_behind(session):
            return
        async with self._lock:
            if not self.is_behind(session):
                return
            connection = self.connection
            self._key = connection.session_id = session.key
            if self._revision < 0:
                connection.protocol_version = session.protocol_version
                connection.client_params = InitializeRequestParams.model_validate(session.client_params, by_name=False)
                self._params = session.client_params
            if session.initialized:
                connection.initialized.set()
            with session_context(self._manager, session):
                await self._replay([entry for entry in session.journal if is_known(entry)], http_request)
            self._revision = session.revision

    def applied(self, session: Session) -> None:
        """Note a change of the session that this connection has made itself, so that `catch_up` does not repeat it.

        If the record revision is not the next one, another process has changed the session too: nothing is noted.
        """
        if session.revision == self._revision + 1:
            self._journal = [entry for entry in session.journal if is_known(entry)]
            self._revision = session.revision

    def is_behind(self, session: Session) -> bool:
        """Return whether the session has changed since this connection was brought up to date."""
        return session.revision > self._revision

    def was_renegotiated(self, session: Session) -> bool:
        """Return whether the client has sent `initialize` again since this connection was brought up to date."""
        connection = self.connection
        return self._params is not None and (
            (connection.initialized.is_set() and not session.initialized)
            or connection.protocol_version != session.protocol_version
            or self._params != session.client_params
        )

    async def _replay(self, journal: Journal, http_request: StarletteRequest) -> None:
        """Repeat the entries that are new in the journal, and undo the subscriptions that are no longer in it."""
        subscribed = subscribed_uris(journal)
        ended: list[Mapping[str, Any]] = [
            {"method": UNSUBSCRIBE, "params": {"uri": entry["params"].get("uri")}}
            for entry in self._journal
            if entry["method"] == SUBSCRIBE and entry["params"].get("uri") not in subscribed
        ]
        repeated = [*ended, *(entry for entry in journal if entry not in self._journal)]
        self._journal = journal
        for entry in repeated:
            context = CallContext(self._key, None, None, http_request, self._outgoing)
            try:
                await contain(self.on_request(context, entry["method"], entry["params"]), lambda: False)
            except HandlerEscape as error:
                log_failed_handler("journal.failed", error, entry["method"], entry["params"], self._key)
            except Exception as error:
                _log.warning(
                    "journal.failed",
                    session=short_key(self._key),
                    method=entry["method"],
                    error=type(error).__name__,
                )

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request to the client on the standalone stream; see the SDK's `Outbound`."""
        return await self._outgoing.send(self._key, self._emit, method, params, opts)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification on the standalone stream; drop it if it cannot be sent."""
        try:
            await self._emit(jsonrpc.notification(method, params))
        except (SessionError, SessionGone):
            _log.debug("message.dropped", session=short_key(self._key), method=method)

    async def _emit(self, message: dict[str, Any]) -> None:
        if self._standalone is None or self._standalone.key != self._key:
            self._standalone = StreamAppender(self._log, self._key, STANDALONE, shared=True)
        await self._standalone.append(message, retry_seconds=_RETRY_SECONDS)


class _Started:
    """A task status of anyio that sets an asyncio event."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    def started(self, value: None = None) -> None:
        self._event.set()


class ConnectionPool:
    """The connections of this process, by session key.

    A connection is dropped when it was unused for `IDLE_SECONDS`, or was unused for longest and there are more than
    `MAX_CONNECTIONS`; but never for these reasons while its session has a running call.

    Args:
        connect: Makes a new connection.
        is_busy: Returns whether calls of the session with this key run here.
    """

    def __init__(self, connect: Callable[[], SessionConnection], is_busy: Callable[[str], bool]) -> None:
        self.connect = connect
        self._is_busy = is_busy
        self._connections: OrderedDict[str, SessionConnection] = OrderedDict()
        self._starting: dict[str, asyncio.Future[SessionConnection]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def get(self, session: Session, http_request: StarletteRequest) -> SessionConnection:
        """Return the session's connection, up to date with this record; see `SessionConnection.catch_up`."""
        key = session.key
        connection = self._connections.get(key)
        if connection is not None and connection.is_behind(session) and connection.was_renegotiated(session):
            # The server's objects on it belong to the handshake before the last one.
            self.drop(key)
            connection = None
        if connection is None:
            connection = await self._open(session)
        else:
            self._connections.move_to_end(key)
        connection.last_used = time.monotonic()
        await connection.catch_up(session, http_request)
        return connection

    async def _open(self, session: Session) -> SessionConnection:
        starting = self._starting.get(session.key)
        if starting is None:
            starting = self._starting[session.key] = asyncio.ensure_future(self._start(session))
        return await asyncio.shield(starting)

    async def _start(self, session: Session) -> SessionConnection:
        try:
            connection = self.connect()
            await connection.start()
            self.add(session.key, connection)
            return connection
        finally:
            del self._starting[session.key]

    def add(self, key: str, connection: SessionConnection) -> None:
        """Keep a connection. If there are too many, drop the one without running calls that was unused for longest."""
        self._connections[key] = connection
        if len(self._connections) > MAX_CONNECTIONS:
            oldest = next((name for name in self._connections if not self._is_busy(name)), None)
            if oldest is not None:
                self.drop(oldest)

    def drop(self, key: str) -> None:
        """Remove a session's connection and close it in the background."""
        connection = self._connections.pop(key, None)
        if connection is not None:
            task = asyncio.ensure_future(connection.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def drop_idle(self) -> None:
        """Drop the connections that have been unused for `IDLE_SECONDS`."""
        unused_since = time.monotonic() - IDLE_SECONDS
        for key, connection in list(self._connections.items()):
            if connection.last_used < unused_since and not self._is_busy(key):
                self.drop(key)

    async def close(self) -> None:
        """Drop all connections and wait until they are closed."""
        for key in list(self._connections):
            self.drop(key)
        await asyncio.gather(*self._closing)
