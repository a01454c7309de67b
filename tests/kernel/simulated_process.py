"""A simulated process, and the HTTP connections that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from contextvars import copy_context
from typing import Any, Final

from mcp.server.lowlevel.server import Server

from mcp_tornado.hosting import host
from mcp_tornado.kernel import Kernel
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import CleanupService, ErrorCode, Session, SessionError, SessionManager, SessionRules
from mcp_tornado.sessions.guard import GuardedEventLog, StoreGuard
from mcp_tornado.streams.frames import Frame, FrameReader
from mcp_tornado.streams.responses import Answer
from tests.kernel.simulated_loop import SimulatedLoop, destroy, tasks_of_process
from tests.kernel.store_link import StoreLink

RULES: Final = SessionRules(idle_timeout=60, touch_interval=6)

_METRICS: Final = Metrics("model")
_KEEPALIVE_SECONDS: Final = 15.0
_CONNECTION_TIMEOUT_SECONDS: Final = 2.0
"""How long a process that terminates waits for its connections after the drain."""
_DISCONNECT_DETECTION_SECONDS: Final = 8.0
"""How long a request may take to detect that its client has disconnected, also while the store is unavailable."""


class SimulatedProcess:
    """One process: a kernel and its link to the store.

    Args:
        server: The server object that the process hosts.
        link: The link to the store.
        loop: The event loop of the cluster.
    """

    def __init__(self, server: Server[Any], link: StoreLink, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.connections: list[HTTPConnection] = []
        """The open connections."""
        self.is_draining = False
        self.is_alive = True
        self.was_partitioned = False
        """Whether the link to the store was ever partitioned."""
        self._tasks: dict[asyncio.Task, None] = {}
        self._link = link
        self.manager = SessionManager(link, RULES, clock=loop.clock, metrics=_METRICS)
        self.kernel = Kernel(
            host(server),
            self.manager,
            GuardedEventLog(link, StoreGuard(_METRICS)),
            metrics=_METRICS,
            stream_after=0.5,
            json_responses=False,
            issue_sessions=True,
        )
        self._sweeps: list[asyncio.Task] = []
        self._context = copy_context()
        self._context.run(tasks_of_process.set, self._tasks)
        self._stopping = asyncio.Event()
        self._running: asyncio.Task[None]
        self._terminations: list[asyncio.Task[None]] = []

    @property
    def accepts_work(self) -> bool:
        """Whether the process accepts new work."""
        return self.is_alive and not self.is_draining

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task:
        """Run a coroutine in this process."""
        return self.loop.create_task(work, context=self._context)

    def sweep(self) -> None:
        """Remove expired sessions from the store."""
        service = CleanupService(self.manager, RULES.idle_timeout, metrics=_METRICS)
        self._sweeps.append(self.spawn(service.sweep()))

    async def start(self) -> None:
        """Return when the kernel runs."""
        started = asyncio.Event()
        self._running = self.spawn(self._run(started))
        starting = asyncio.ensure_future(started.wait())
        await asyncio.wait([self._running, starting], return_when=asyncio.FIRST_COMPLETED)
        if not started.is_set():
            starting.cancel()
            await self._running  # raises the error that kept the kernel from starting

    async def _run(self, started: asyncio.Event) -> None:
        async with self.kernel.running():
            started.set()
            await self._stopping.wait()

    def terminate(self, grace: float) -> None:
        """Drain and end in the background, as on SIGTERM. `grace` is the time limit of the drain in seconds."""
        self.is_draining = True
        self._terminations.append(self.loop.create_task(self._terminate(grace)))

    async def _terminate(self, grace: float) -> None:
        await self.spawn(self.kernel.drain(grace))
        if self._sweeps:
            await asyncio.wait(self._sweeps)
        if self.connections:
            await asyncio.wait(
                [connection.task for connection in self.connections], timeout=_CONNECTION_TIMEOUT_SECONDS
            )
        self._stopping.set()
        await self._running
        self._end()
        await asyncio.sleep(_DISCONNECT_DETECTION_SECONDS)
        if self._tasks and not self.was_partitioned:
            self.loop.report(f"tasks still run after their process has ended: {list(self._tasks)}")
        await destroy(self._tasks.copy)

    async def kill(self) -> None:
        """End immediately, as on SIGKILL. What its tasks still do reaches neither the store nor a client."""
        self._link.partition()
        self._end()
        await destroy(self._tasks.copy)

    def _end(self) -> None:
        self.is_alive = False
        for connection in list(self.connections):
            connection.drop()

    def partition(self, seconds: float) -> None:
        """Partition the process from the store for some seconds."""
        self.was_partitioned = True
        self._link.partition()
        self.loop.call_later(seconds, self._heal)

    def _heal(self) -> None:
        if self.is_alive:
            self._link.heal()


class _ClientDisconnected(Exception):
    """The client does not receive anything any more."""


class HTTPConnection:
    """One HTTP request of a client, and what the web layer does for it.

    Args:
        process: The process that serves the request.
        session_id: The session of the request.
        handle: Serves the request.
        on_data: Called with each frame, and with a JSON answer, when the client receives it.
        on_end: Called when the client receives nothing more.
    """

    def __init__(
        self,
        process: SimulatedProcess,
        session_id: str,
        handle: Callable[[HTTPConnection, Session], Awaitable[object]],
        *,
        on_data: Callable[[HTTPConnection, Frame | Answer], None] | None = None,
        on_end: Callable[[HTTPConnection], None] | None = None,
    ) -> None:
        self.process = process
        self.kernel = process.kernel
        self.session_id = session_id
        self.is_open = True
        self.opened_at = process.loop.time()
        self.is_streaming = False
        """Whether the answer is a stream."""
        self.was_dropped = False
        """Whether the client disconnected, or the process ended, before the request was answered completely."""
        self._error: SessionError | None = None
        self._handle = handle
        self._on_data = on_data
        self._on_end = on_end
        self._exchange = None
        self._reader: FrameReader | None = None
        process.connections.append(self)
        self.task = process.spawn(self._serve())

    @property
    def error_code(self) -> str | None:
        """The code of the error that the request was answered with; `None` if there was no error."""
        return self._error.code.value if self._error is not None else None

    @property
    def was_served(self) -> bool:
        """Whether the client has received the whole answer, and it is no error. Meaningful once it has ended."""
        return self._error is None and not self.was_dropped

    async def _serve(self) -> None:
        try:
            session = await self.process.manager.validate(self.session_id)
            if not await self.process.manager.refresh(session):
                raise SessionError(ErrorCode.SESSION_NOT_FOUND)
            await self._handle(self, session)
        except SessionError as error:
            self._error = error
        except _ClientDisconnected:
            pass
        except Exception as error:  # the web layer would answer with status 500
            self.process.loop.report(f"a request failed with {error!r}")
        finally:
            self._end()

    def _check_open(self) -> None:
        if not self.is_open:
            raise _ClientDisconnected

    async def answer(self, exchange) -> None:
        """Answer a POST; see `MCPHandler`."""
        if exchange is None:
            return
        self._exchange = exchange
        answer = await exchange.answer()
        if answer is None:
            await self.stream(exchange.reader())
            return
        self._check_open()
        self._on_data(self, answer)

    async def stream(self, reader: FrameReader) -> None:
        """Answer with a stream; see `StreamingHandler.stream`."""
        self._reader = reader
        try:
            self._check_open()
            self.is_streaming = True
            async with aclosing(reader.frames(_KEEPALIVE_SECONDS)) as frames:
                async for frame in frames:
                    self._check_open()
                    if frame is not None:
                        self._on_data(self, frame)
        finally:
            reader.close(discard_pending=True)

    def disconnect(self) -> None:
        """Close the connection from the client's side; see `StreamingHandler.on_connection_close`."""
        if not self.is_open:
            return
        self.drop()
        if self._exchange is not None:
            self._exchange.disconnect()
        if self._reader is not None:
            self._reader.close(discard_pending=True)

    def drop(self) -> None:
        """Let the client receive nothing more."""
        self.was_dropped = True
        self._end()

    def _end(self) -> None:
        if self.is_open:
            self.is_open = False
            self.process.connections.remove(self)
            if self._on_end is not None:
                self._on_end(self)
