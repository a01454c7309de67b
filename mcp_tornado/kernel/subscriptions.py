"""What a server publishes as changed, for `subscriptions/listen` (MCP 2026-07-28): heard in all processes."""

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
"""The kind of mail that tells what was published; `events` has it as the notifications of the protocol."""

_AT_ONCE: Final = 100
"""How many events are told in one mail."""
_PAUSES: Final = (0.0, 0.5, 2.0)
"""Seconds before each attempt to tell the others."""
_LAST_SECONDS: Final = 2.0
"""How long an end waits for what is not told yet."""

_came_by_mail: ContextVar[bool] = ContextVar("_came_by_mail", default=False)
"""Whether what is published here and now came from another process: it is not to be told again."""


class EventSink(Protocol):
    """Tells somebody what was published."""

    def take(self, event: ServerEvent) -> None:
        """Note what was published."""
        ...

    async def tell(self) -> None:
        """Tell what was noted, until cancelled."""
        ...

    async def all_told(self) -> None:
        """Return once nothing is left to be told; there is no time to lose any more."""
        ...


class EventRelay:
    """What is published on a server's bus in this process: the other processes are told, and so are all sessions.

    Whoever publishes waits for nothing, and those who listen in this process hear it whether or not the store is there.
    A bus that is not the SDK's own in-memory one belongs to the user, who shares it or does not.

    Args:
        server: The server.
        mailbox: Sends messages to the other processes.
        announcements: Reaches the sessions; `None` where none are made.
    """

    def __init__(self, server: Server[Any], mailbox: Mailbox, announcements: Announcements | None) -> None:
        self._bus = _bus_of(server)
        self._tellers: list[EventSink] = []
        if self._bus is not None:
            self._tellers = [_Bridge(self._bus, mailbox)]
            if announcements is not None:
                self._tellers.append(announcements)
        self.reaches_sessions: Final = announcements in self._tellers
        """Whether sessions are told."""

    @contextmanager
    def noted(self) -> Generator[None]:
        """Note what is published; it is told as soon as `told` is entered."""
        unsubscribe = self._bus.subscribe(self._take) if self._bus is not None else None
        try:
            yield
        finally:
            if unsubscribe is not None:
                unsubscribe()

    @asynccontextmanager
    async def told(self) -> AsyncGenerator[None]:
        """Tell what was noted and what will be; on leaving, what is left, if that does not take long."""
        telling = [asyncio.create_task(teller.tell()) for teller in self._tellers]
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(_LAST_SECONDS):
                    for teller in self._tellers:
                        await teller.all_told()
            except TimeoutError:
                _log.warning("changes.untold", hint="what was published last has not reached everybody")
            for task in telling:
                task.cancel()
            await asyncio.gather(*telling, return_exceptions=True)

    def _take(self, event: ServerEvent) -> None:
        if not _came_by_mail.get():
            for teller in self._tellers:
                teller.take(event)


def _bus_of(server: Server[Any]) -> InMemorySubscriptionBus | None:
    entry = server.get_request_handler(LISTEN)
    if entry is None or not isinstance(entry.handler, ListenHandler):
        return None
    # The SDK takes a bus, when a server is made, and never gives it out again.
    bus = entry.handler._bus  # pyright: ignore[reportPrivateUsage]
    return bus if type(bus) is InMemorySubscriptionBus else None


class _Bridge:
    """Between the bus of this process and the mail of all.

    The order of what one process publishes is kept. An event says that something has changed, not what: one that the
    store does not take in a few attempts is dropped, with a warning.
    """

    def __init__(self, bus: InMemorySubscriptionBus, mailbox: Mailbox) -> None:
        self._bus = bus
        self._mailbox = mailbox
        self._untold: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        mailbox.register(PUBLISHED, self._publish)

    def take(self, event: ServerEvent) -> None:
        """See `EventSink.take`."""
        notification = event_to_notification(event, {})
        self._untold.put_nowait(notification.model_dump(mode="json", by_alias=True, exclude_none=True))

    async def tell(self) -> None:
        """See `EventSink.tell`; it is the other processes that are told."""
        while True:
            events = [await self._untold.get(), *self._waiting(_AT_ONCE - 1)]
            if not await self._tell(events):
                events += self._waiting(self._untold.qsize())
                hint = "the store is away; who listens at other processes does not hear of them"
                _log.warning("subscriptions.not_told", events=len(events), hint=hint)
            for _ in events:
                self._untold.task_done()

    async def all_told(self) -> None:
        """See `EventSink.all_told`."""
        await self._untold.join()

    async def _publish(self, content: Payload) -> bool:
        """Publish in this process what another one tells; events of a kind that is not known yet are passed over."""
        token = _came_by_mail.set(True)
        try:
            for notification in content["events"]:
                event = event_from_wire(notification["method"], notification.get("params"))
                if event is not None:
                    await self._bus.publish(event)
        finally:
            _came_by_mail.reset(token)
        return False

    def _waiting(self, limit: int) -> list[Mapping[str, Any]]:
        return [self._untold.get_nowait() for _ in range(min(limit, self._untold.qsize()))]

    async def _tell(self, events: list[Mapping[str, Any]]) -> bool:
        for pause in _PAUSES:
            await asyncio.sleep(pause)
            with suppress(Exception):  # the guard of the store has logged it
                await self._mailbox.broadcast(PUBLISHED, {"events": events})
                return True
        return False
