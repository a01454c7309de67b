"""Changes that a server publishes (MCP 2026-07-28, `subscriptions/listen`), relayed to every process and session.

A server publishes an event on its subscription bus, for example "the list of tools has changed". The SDK's bus reaches
only the listeners in this process. The relay also sends each event

- to the other processes, which publish it on their own buses (`_MailboxSink`), and
- to the sessions of the handshake era (`Announcements`).

Publishing never waits for the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, Protocol

from mcp.server.lowlevel.server import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.subscriptions import ServerEvent, event_from_wire, event_to_notification

from mcp_tornado.cluster.mailbox import Mailbox, Payload
from mcp_tornado.kernel.announcements import Announcements
from mcp_tornado.kernel.stateless import LISTEN
from mcp_tornado.log import get_logger

_log = get_logger(__name__)

PUBLISHED: Final = "published"
"""Message kind: events that another process has published; `events` holds them as the protocol's notifications."""

_MAX_EVENTS_PER_MESSAGE: Final = 100
_RETRY_DELAYS_SECONDS: Final = (0.0, 0.5, 2.0)
"""The delay before each attempt to send a message to the other processes."""
_FLUSH_TIMEOUT_SECONDS: Final = 2.0
"""How long the end of the process waits for events that have not been sent yet."""

_from_other_process: ContextVar[bool] = ContextVar("_from_other_process", default=False)
"""Whether the event that is being published came from another process. Such an event is not relayed again."""


class EventSink(Protocol):
    """Sends published events to one kind of receiver."""

    def put(self, event: ServerEvent) -> None:
        """Queue an event. Returns at once."""
        ...

    async def run(self) -> None:
        """Send the queued events until cancelled."""
        ...

    async def flush(self) -> None:
        """Wait until every queued event was sent or dropped. From now on `run` does not pause between passes."""
        ...


class EventRelay:
    """Relays what a server publishes in this process to the other processes and to the sessions.

    Listeners in this process get an event whether or not the store is available. If you pass your own bus class,
    mcp-tornado does not hook into it; you deliver its events yourself.

    Args:
        server: The server.
        mailbox: Sends messages to the other processes.
        announcements: Sends events to the sessions; `None` if the server issues no sessions.
    """

    def __init__(self, server: Server[Any], mailbox: Mailbox, announcements: Announcements | None) -> None:
        self._bus = _bus_of(server)
        self._sinks: list[EventSink] = []
        if self._bus is not None:
            self._sinks = [_MailboxSink(self._bus, mailbox)]
            if announcements is not None:
                self._sinks.append(announcements)
        self.reaches_sessions: Final = announcements in self._sinks
        """Whether the sessions get the events."""

    @contextmanager
    def collecting(self) -> Generator[None]:
        """Queue what the server publishes; `relaying` sends it."""
        unsubscribe = self._bus.subscribe(self._put) if self._bus is not None else None
        try:
            yield
        finally:
            if unsubscribe is not None:
                unsubscribe()

    @asynccontextmanager
    async def relaying(self) -> AsyncGenerator[None]:
        """Send the queued events and those that follow. On exit, send what is left, for a limited time."""
        senders = [asyncio.create_task(sink.run()) for sink in self._sinks]
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(_FLUSH_TIMEOUT_SECONDS):
                    for sink in self._sinks:
                        await sink.flush()
            except TimeoutError:
                _log.warning("changes.untold", hint="the events published last have not reached every receiver")
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)

    def _put(self, event: ServerEvent) -> None:
        if not _from_other_process.get():
            for sink in self._sinks:
                sink.put(event)


def _bus_of(server: Server[Any]) -> InMemorySubscriptionBus | None:
    entry = server.get_request_handler(LISTEN)
    if entry is None or not isinstance(entry.handler, ListenHandler):
        return None
    # The SDK accepts a bus in the server's constructor and has no public way to read it back.
    bus = entry.handler._bus  # pyright: ignore[reportPrivateUsage]
    return bus if type(bus) is InMemorySubscriptionBus else None


class _MailboxSink:
    """Sends the events of this process to the buses of the other processes.

    The events of one process arrive in order. An event says that something has changed, not what it is now. If three
    attempts to write a message to the store fail, its events and all events that are queued then are dropped, and a
    warning is logged.
    """

    def __init__(self, bus: InMemorySubscriptionBus, mailbox: Mailbox) -> None:
        self._bus = bus
        self._mailbox = mailbox
        self._queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        mailbox.register(PUBLISHED, self._on_published)

    def put(self, event: ServerEvent) -> None:
        """See `EventSink.put`."""
        notification = event_to_notification(event, {})
        self._queue.put_nowait(notification.model_dump(mode="json", by_alias=True, exclude_none=True))

    async def run(self) -> None:
        """See `EventSink.run`."""
        while True:
            events = [await self._queue.get(), *self._take_queued(_MAX_EVENTS_PER_MESSAGE - 1)]
            if not await self._broadcast(events):
                events += self._take_queued(self._queue.qsize())
                hint = "the store is unavailable; listeners at other processes do not get these events"
                _log.warning("subscriptions.not_told", events=len(events), hint=hint)
            for _ in events:
                self._queue.task_done()

    async def flush(self) -> None:
        """See `EventSink.flush`."""
        await self._queue.join()

    async def _on_published(self, payload: Payload) -> bool:
        """Publish here what another process has published; ignore events of a kind that this version does not know."""
        token = _from_other_process.set(True)
        try:
            for notification in payload["events"]:
                event = event_from_wire(notification["method"], notification.get("params"))
                if event is not None:
                    await self._bus.publish(event)
        finally:
            _from_other_process.reset(token)
        return False

    def _take_queued(self, limit: int) -> list[Mapping[str, Any]]:
        return [self._queue.get_nowait() for _ in range(min(limit, self._queue.qsize()))]

    async def _broadcast(self, events: list[Mapping[str, Any]]) -> bool:
        for delay in _RETRY_DELAYS_SECONDS:
            await asyncio.sleep(delay)
            with suppress(Exception):  # the store's guard has logged it
                await self._mailbox.broadcast(PUBLISHED, {"events": events})
                return True
        return False
