"""What a server publishes as changed, told to the sessions of the handshake era."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.shared.subscriptions import ResourceUpdated, ServerEvent, event_to_notification

from mcp_tornado import jsonrpc
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, Session, SessionGone, SessionManager
from mcp_tornado.sessions.journal import SUBSCRIBE, subscribed_uris
from mcp_tornado.streams.append import retry_while_unavailable
from mcp_tornado.streams.names import STANDALONE

_log = get_logger(__name__)

_PAGE: Final = 100
"""How many sessions are read from the store at once."""
_SHORTEST_PAUSE: Final = 1.0
"""Seconds between two walks at the least: what changes all the time does not push everything else out of the logs."""
_LONGEST_PAUSE: Final = 5.0
"""Seconds between two walks at the most: one may have waited for the store for long."""


def announcing(server: Server[Any]) -> InitializationOptions:
    """Return what a server says of itself in a handshake: it does tell its sessions that a list has changed."""
    return server.create_initialization_options(
        NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    )


class Announcements:
    """Tells what has changed on the standalone streams of all sessions, whichever process has met them.

    Every session hears that a list has changed, and those that have subscribed to a resource hear that it was
    updated. A session is told in its event log, so that a client hears it which attaches later. It may be told twice
    where the store was away: an event says that something has changed, not what.

    Whoever publishes waits for nothing. One session is told after the other, to leave the store to the requests, and
    a walk through the sessions is followed by a pause as long, within limits; what is published meanwhile is told by
    the next walk, each event once.

    Args:
        server: What publishes.
        manager: The sessions.
        log: Their events.
    """

    def __init__(self, server: Server[Any], manager: SessionManager, log: EventLog) -> None:
        self._server = server
        self._manager = manager
        self._log = log
        self._untold: dict[ServerEvent, None] = {}
        self._noted = asyncio.Event()
        self._told = asyncio.Event()
        self._told.set()
        self._hurried = asyncio.Event()

    def take(self, event: ServerEvent) -> None:
        """See `EventSink.take`."""
        if isinstance(event, ResourceUpdated) and self._server.get_request_handler(SUBSCRIBE) is None:
            return  # nobody can have subscribed to it: not worth a walk
        self._untold[event] = None
        self._told.clear()
        self._noted.set()

    async def tell(self) -> None:
        """See `EventSink.tell`."""
        while True:
            await self._noted.wait()
            self._noted.clear()
            events, self._untold = list(self._untold), {}
            began = time.monotonic()
            try:
                await self._walk(events)
            except Exception:
                _log.exception("announcements.failed", events=len(events))
            if not self._untold:
                self._told.set()
            pause = min(max(time.monotonic() - began, _SHORTEST_PAUSE), _LONGEST_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurried.wait()

    async def all_told(self) -> None:
        """See `EventSink.all_told`."""
        self._hurried.set()
        await self._told.wait()

    async def _walk(self, events: Sequence[ServerEvent]) -> None:
        after = None
        while sessions := await retry_while_unavailable(partial(self._manager.page, after, _PAGE), None):
            for session in sessions:
                for event in events:
                    if _concerns(session, event):
                        await self._append(session.key, event)
                await asyncio.sleep(0)  # a store in memory lets nobody else run
            after = sessions[-1].key

    async def _append(self, key: str, event: ServerEvent) -> None:
        try:
            await retry_while_unavailable(partial(self._log.append, key, STANDALONE, _notification(event)), None)
        except (SessionGone, ValueError):  # it has ended meanwhile; or the event is larger than the store can keep
            _log.debug("message.dropped", kind=type(event).__name__)


def _concerns(session: Session, event: ServerEvent) -> bool:
    # Also before `initialized` came: the client may have asked for its lists already.
    if session.is_handle:
        return False
    return not isinstance(event, ResourceUpdated) or event.uri in subscribed_uris(session.journal)


def _notification(event: ServerEvent) -> dict[str, Any]:
    method = event_to_notification(event, {}).method
    return jsonrpc.notification(method, {"uri": event.uri} if isinstance(event, ResourceUpdated) else None)
