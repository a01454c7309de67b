"""The SDK's connection objects of this process: a cache of what the stored sessions say, never the truth."""

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
from mcp_tornado.kernel.calls import CallContext
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, Session, SessionError, SessionGone, SessionManager, short_key
from mcp_tornado.sessions.journal import SUBSCRIBE, UNSUBSCRIBE, Journal, is_known, subscribed_uris
from mcp_tornado.streams.append import StreamAppender
from mcp_tornado.streams.names import STANDALONE

_log = get_logger(__name__)

MAX_CONNECTIONS: Final = 4096
"""How many idle connections are kept at the most."""
IDLE_SECONDS: Final = 300.0
"""How long an idle connection is kept."""

_STORE_PATIENCE: Final = 10.0
"""Seconds for which what the server says unasked waits for a store that is away."""


class SessionConnection:
    """One session in this process: the SDK's `Connection`, kept up to date with the stored record.

    It is the SDK's `Dispatcher` for that connection: what the server says outside of any request goes to the
    session's standalone stream, also after the connection was dropped from the cache.
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
        """What the server says of itself in a handshake; `None`: what it says by itself."""
        self._lifespan_state = lifespan_state
        self._manager = manager
        self._log = log
        self._outgoing = outgoing
        self._key = ""
        self._params: Mapping[str, Any] | None = None
        """The params of the client's `initialize`, `None` before there are any."""
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
        """Start serving; returns once requests can be handed over."""
        started = asyncio.Event()
        self._task = asyncio.create_task(
            serve_connection(
                self._server,
                self,
                connection=self.connection,
                lifespan_state=self._lifespan_state,
                init_options=self._init_options,
                task_status=_Started(started),
            )
        )
        await started.wait()

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take the kernel's entries and wait until `close`; see the SDK's `Dispatcher`."""
        self.on_request, self.on_notify = on_request, on_notify
        task_status.started()
        await self._closing.wait()

    async def close(self) -> None:
        """Unwind what the server keeps on this connection."""
        self._closing.set()
        if self._task is not None:
            await self._task

    def bind(self, session: Session) -> None:
        """Say whose connection this is, once `initialize` has made the session."""
        self._key = self.connection.session_id = session.key
        self._params = session.client_params
        self._revision = session.revision

    async def catch_up(self, session: Session, shown: StarletteRequest) -> None:
        """Bring the connection to what the stored session says, repeating what the journal has and it has not.

        Handlers of what is repeated are shown the request that is at hand: the ones that it came with are gone.
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
                await self._replay([entry for entry in session.journal if is_known(entry)], shown)
            self._revision = session.revision

    def applied(self, session: Session) -> None:
        """Note that this connection has itself made what the session's next revision holds."""
        if session.revision == self._revision + 1:
            self._journal = [entry for entry in session.journal if is_known(entry)]
            self._revision = session.revision

    def is_behind(self, session: Session) -> bool:
        """Say whether the session has changed since this connection was brought up to date."""
        return session.revision > self._revision

    def was_renegotiated(self, session: Session) -> bool:
        """Say whether the client has shaken hands anew since this connection was brought up to date."""
        connection = self.connection
        return self._params is not None and (
            (connection.initialized.is_set() and not session.initialized)
            or connection.protocol_version != session.protocol_version
            or self._params != session.client_params
        )

    async def _replay(self, journal: Journal, shown: StarletteRequest) -> None:
        """Repeat what the journal has and we have not, and take back what we have and it has not."""
        subscribed = subscribed_uris(journal)
        ended: list[Mapping[str, Any]] = [
            {"method": UNSUBSCRIBE, "params": {"uri": entry["params"].get("uri")}}
            for entry in self._journal
            if entry["method"] == SUBSCRIBE and entry["params"].get("uri") not in subscribed
        ]
        repeated = [*ended, *(entry for entry in journal if entry not in self._journal)]
        self._journal = journal
        for entry in repeated:
            context = CallContext(self._key, None, None, shown, self._outgoing)
            try:
                await self.on_request(context, entry["method"], entry["params"])
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
        """Send a notification on the standalone stream; one that cannot be sent is dropped."""
        try:
            await self._emit(jsonrpc.notification(method, params))
        except (SessionError, SessionGone):
            _log.debug("message.dropped", session=short_key(self._key), method=method)

    async def _emit(self, message: dict[str, Any]) -> None:
        if self._standalone is None or self._standalone.key != self._key:
            self._standalone = StreamAppender(self._log, self._key, STANDALONE, shared=True)
        await self._standalone.append(message, retry_seconds=_STORE_PATIENCE)


class _Started:
    """Tells an asyncio event what anyio's task groups tell a task status."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    def started(self, value: None = None) -> None:
        self._event.set()


class ConnectionPool:
    """The connections of this process by session key: bounded, and dropped when idle.

    Args:
        connect: Makes a new connection.
        busy: Says of a session key whether calls of it run here.
    """

    def __init__(self, connect: Callable[[], SessionConnection], busy: Callable[[str], bool]) -> None:
        self.connect = connect
        self._busy = busy
        self._connections: OrderedDict[str, SessionConnection] = OrderedDict()
        self._starting: dict[str, asyncio.Future[SessionConnection]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def get(self, session: Session, shown: StarletteRequest) -> SessionConnection:
        """Return the session's connection, up to date with the record given; see `SessionConnection.catch_up`."""
        key = session.key
        connection = self._connections.get(key)
        if connection is not None and connection.is_behind(session) and connection.was_renegotiated(session):
            # What the server kept on it was said in another session, so to speak.
            self.drop(key)
            connection = None
        if connection is None:
            connection = await self._open(session)
        else:
            self._connections.move_to_end(key)
        connection.last_used = time.monotonic()
        await connection.catch_up(session, shown)
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
        """Keep a connection, dropping the one unused for longest where there are too many."""
        self._connections[key] = connection
        if len(self._connections) > MAX_CONNECTIONS:
            oldest = next((name for name in self._connections if not self._busy(name)), None)
            if oldest is not None:
                self.drop(oldest)

    def drop(self, key: str) -> None:
        """Forget a session's connection and unwind it in the background."""
        connection = self._connections.pop(key, None)
        if connection is not None:
            task = asyncio.ensure_future(connection.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def drop_idle(self) -> None:
        """Drop the connections that nobody has used for a while."""
        limit = time.monotonic() - IDLE_SECONDS
        for key, connection in list(self._connections.items()):
            if connection.last_used < limit and not self._busy(key):
                self.drop(key)

    async def close(self) -> None:
        """Drop all connections and wait until they are unwound."""
        for key in list(self._connections):
            self.drop(key)
        await asyncio.gather(*self._closing)
