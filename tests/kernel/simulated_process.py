"""Several processes over one store, simulated on one event loop whose time is ours.

Nothing ever waits: where there is nothing to do, the time jumps to when there is. What goes to the store and back
takes a moment that is drawn, so that processes overtake each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import selectors
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Final
from unittest import mock

from mcp_tornado import log
from mcp_tornado.hosting import InboundRequest, host
from mcp_tornado.kernel import Kernel
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import CleanupService, ErrorCode, SessionError, SessionManager, SessionRules
from mcp_tornado.sessions import manager as manager_module
from mcp_tornado.sessions.errors import StoreError
from mcp_tornado.sessions.guard import GuardedEventLog, StoreGuard
from mcp_tornado.sessions.ids import is_process_key
from mcp_tornado.sessions.store import EventBounds
from mcp_tornado.stores.memory import MemoryStore

BEGINNING: Final = datetime(2026, 11, 1, 12, tzinfo=UTC)
RULES: Final = SessionRules(idle_timeout=60, touch_interval=6)
INBOUND: Final = InboundRequest("POST", "http", "localhost", "/mcp", "", SimpleNamespace(get_all=list), "127.0.0.1")
KEEPALIVE: Final = 15.0
METRICS: Final = Metrics("model")

_WAYS: Final = (None, None, 0, 0, 0.001, 0.003, 0.02)
"""How long it takes to the store, or back: seconds, 0 for a turn of the loop, `None` for no time at all."""
_LAST_SECONDS: Final = 8.0
"""How long requests may take to notice that their client is gone, also while the store is away."""

_process: Final[ContextVar[Process | None]] = ContextVar("process", default=None)


class _Jumping(selectors.DefaultSelector):
    """Where the loop would sleep, time passes at once."""

    now = 0.0

    def select(self, timeout=None):
        assert timeout is not None, "everything waits for something that cannot come"
        self.now += max(timeout, 0)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own, which knows the tasks of each process."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)
        self.set_task_factory(_create_task)

    def time(self) -> float:
        return self._jumping.now


def _create_task(loop, coroutine, context=None):
    process = _process.get() if context is None else context.get(_process)
    task = asyncio.Task(coroutine, loop=loop, context=context)
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(lambda done: process.tasks.pop(done, None))
    return task


SIMULATED = ("mcp_tornado.cluster.", "mcp_tornado.hosting.", "mcp_tornado.kernel.", "mcp_tornado.streams.", "tenacity")
"""The modules that are given the simulated clock."""


class World:
    """The loop, the store and the processes, all of them made from one seed.

    Args:
        hosted: Makes the server object of a process.
        seed: Decides all that is not decided by whoever drives the world.
    """

    def __init__(self, hosted, seed: int) -> None:
        self.hosted = hosted
        self.random = random.Random(seed)
        self.faults: list[str] = []
        self.loop = SimulatedLoop()
        self.loop.set_exception_handler(lambda _, context: self.faults.append(repr(context)))
        self.store = MemoryStore(self.clock, EventBounds(max_per_session=10**6, max_bytes=10**9))
        self.processes: list[Process] = []
        """Those that live."""
        self.process_keys: set[str] = set()
        """The keys of all mailboxes, and of what all processes share."""
        self._patches = contextlib.ExitStack()
        simulated_time = SimpleNamespace(monotonic=self.loop.time, perf_counter=time.perf_counter)
        for name, module in list(sys.modules.items()):
            if name.startswith(SIMULATED) and getattr(module, "time", None) is time:
                self._patches.enter_context(mock.patch.object(module, "time", simulated_time))
        self._patches.enter_context(mock.patch.object(log, "_threshold", logging.CRITICAL))
        self._patches.enter_context(mock.patch.object(secrets, "token_hex", self._token))
        self._patches.enter_context(mock.patch.object(manager_module, "new_session_id", self._token))
        self.run(self.store.__aenter__())

    def clock(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.now)

    @property
    def now(self) -> float:
        return self.loop.time()

    def _token(self, size: int = 16) -> str:
        return self.random.randbytes(size).hex()

    def run(self, work):
        """Run a coroutine to its end, everything else running too.

        Raises:
            AssertionError: Something went wrong meanwhile, anywhere.
        """
        result = self.loop.run_until_complete(work)
        assert not self.faults, "\n".join(self.faults)
        return result

    def start(self) -> Process:
        """Start a process."""
        process = Process(self)
        self.run(process.start())
        self.processes.append(process)
        return process

    def close(self) -> None:
        """Undo everything."""
        for process in list(self.processes):
            self.loop.run_until_complete(process.kill())
        self.loop.run_until_complete(_destroy(asyncio.all_tasks))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        self._patches.close()


async def _destroy(tasks: Callable[[], Iterable[asyncio.Task]]) -> None:
    """Cancel until nothing is left, whatever is done on being cancelled."""
    for _ in range(1000):
        left = [task for task in tasks() if not task.done() and task is not asyncio.current_task()]
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.sleep(0)
    raise AssertionError(f"cannot be destroyed: {left}")


class Line:
    """The way of one process to the store, which it takes for the store itself."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = random.Random(world.random.getrandbits(32))
        self._passable = asyncio.Event()
        self._passable.set()

    def __getattr__(self, name: str):
        operation = getattr(self._world.store, name)

        async def pass_on(*args, **kwargs):
            await self._way()
            if name == "append" and is_process_key(args[0]):
                self._world.process_keys.add(args[0])
            try:
                result = await operation(*args, **kwargs)
            except StoreError:
                await self._way()
                raise
            await self._way()
            return result

        return pass_on

    def cut(self) -> None:
        """Let nothing through any more, in either direction."""
        self._passable.clear()

    def mend(self) -> None:
        """Let everything through again, also what has waited."""
        self._passable.set()

    async def _way(self) -> None:
        seconds = self._random.choice(_WAYS)
        if seconds is not None:
            await asyncio.sleep(seconds)
        if not self._passable.is_set():
            await self._passable.wait()


class Process:
    """One process: a kernel, and its way to the store."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: dict[asyncio.Task, None] = {}
        self.connections: list[Connection] = []
        """Those that are open."""
        self.draining = False
        self.alive = True
        self.was_cut_off = False
        """Whether its way to the store ever was cut."""
        self._line = Line(world)
        guard = StoreGuard(METRICS)
        self.manager = SessionManager(self._line, RULES, clock=world.clock, metrics=METRICS)
        self.kernel = Kernel(
            host(world.hosted()),
            self.manager,
            GuardedEventLog(self._line, guard),
            metrics=METRICS,
            stream_after=0.5,
            json_responses=False,
            issue_sessions=True,
        )
        self._sweeps: list[asyncio.Task] = []
        self._context = copy_context()
        self._context.run(_process.set, self)
        self._leaving = asyncio.Event()

    @property
    def serves(self) -> bool:
        """Whether it takes new work."""
        return self.alive and not self.draining

    def spawn(self, work) -> asyncio.Task:
        """Run something in this process."""
        return self.world.loop.create_task(work, context=self._context)

    def sweep(self) -> None:
        """Remove expired sessions."""
        service = CleanupService(self.manager, RULES.idle_timeout, metrics=METRICS)
        self._sweeps.append(self.spawn(service.sweep()))

    async def start(self) -> None:
        entered = asyncio.Event()
        self._living = self.spawn(self._live(entered))
        await entered.wait()

    async def _live(self, entered: asyncio.Event) -> None:
        async with self.kernel.running():
            entered.set()
            await self._leaving.wait()

    def leave(self, grace: float) -> asyncio.Task:
        """End as on SIGTERM."""
        self.draining = True
        return self.world.loop.create_task(self._leave(grace))

    async def _leave(self, grace: float) -> None:
        await self.spawn(self.kernel.drain(grace))
        if self._sweeps:
            await asyncio.wait(self._sweeps)
        if self.connections:
            await asyncio.wait([connection.task for connection in self.connections], timeout=2)
        self._leaving.set()
        await self._living
        self._end()
        await asyncio.sleep(_LAST_SECONDS)
        if self.tasks and not self.was_cut_off:
            self.world.faults.append(f"tasks outlive their process: {list(self.tasks)}")
        await _destroy(self.tasks.copy)

    async def kill(self) -> None:
        """End as on SIGKILL: whatever would still be done does not reach anybody."""
        self._line.cut()
        self._end()
        await _destroy(self.tasks.copy)

    def _end(self) -> None:
        self.alive = False
        for connection in list(self.connections):
            connection.break_off()
        if self in self.world.processes:
            self.world.processes.remove(self)

    def cut_off(self, seconds: float) -> None:
        """Let nothing through to the store, nor back, for so long."""
        self.was_cut_off = True
        self._line.cut()
        self.world.loop.call_later(seconds, self._reconnect)

    def _reconnect(self) -> None:
        if self.alive:
            self._line.mend()


class HungUp(Exception):
    """There is nobody at the other end."""


class Connection:
    """An HTTP request of a client, and what the web layer does for it.

    Args:
        process: Whom it reached.
        session_id: Whose request it is.
        handle: What the method does; gets the connection and the session.
        receive: Called with each frame, and with the JSON of an answer, as the client gets it.
        ended: Called once nothing more comes.
    """

    def __init__(self, process: Process, session_id: str, handle, *, receive=None, ended=None) -> None:
        self.process = process
        self.kernel = process.kernel
        self.open = True
        self.opened_at = process.world.now
        self.streams = False
        """Whether the answer is a stream."""
        self.result = None
        """What the request was answered with, where that is no stream; it may be a `SessionError`."""
        self.broken = False
        """Whether it ended from the client's side, or with its process."""
        self.client = None
        self._session_id = session_id
        self._handle = handle
        self._receive = receive
        self._ended = ended
        self._exchange = None
        self._reader = None
        process.connections.append(self)
        self.task = process.spawn(self._serve())

    @property
    def refused(self) -> str | None:
        """The code of the error that the request was answered with, or `None`."""
        return self.result.code.value if isinstance(self.result, SessionError) else None

    async def _serve(self) -> None:
        try:
            session = await self.process.manager.validate(self._session_id)
            if not await self.process.manager.refresh(session):
                raise SessionError(ErrorCode.SESSION_NOT_FOUND)
            self.result = await self._handle(self, session)
        except SessionError as error:
            self.result = error
        except HungUp:
            pass
        except Exception as error:  # it would be answered with a status of 500
            self.process.world.faults.append(f"a request failed with {error!r}")
        finally:
            self._end()

    def _write(self) -> None:
        if not self.open:
            raise HungUp

    async def answer(self, exchange) -> object:
        """Answer a POST; see `MCPHandler`."""
        if exchange is None:
            return None
        self._exchange = exchange
        answer = await exchange.answer()
        if answer is None:
            await self.stream(exchange.reader())
            return None
        self._write()
        self._receive(self, answer)
        return answer

    async def stream(self, reader) -> None:
        """Answer with a stream; see `BaseHandler.stream`."""
        self._reader = reader
        try:
            self._write()
            self.streams = True
            async with aclosing(reader.frames(KEEPALIVE)) as frames:
                async for frame in frames:
                    self._write()
                    if frame is not None:
                        self._receive(self, frame)
        finally:
            reader.close(at_once=True)

    def hang_up(self) -> None:
        """Close it from the client's side; see `BaseHandler.on_connection_close`."""
        if not self.open:
            return
        self.break_off()
        if self._exchange is not None:
            self._exchange.disconnect()
        if self._reader is not None:
            self._reader.close(at_once=True)

    def break_off(self) -> None:
        """Let the client get nothing more."""
        self.broken = True
        self._end()

    def _end(self) -> None:
        if self.open:
            self.open = False
            self.process.connections.remove(self)
            if self._ended is not None:
                self._ended(self)
