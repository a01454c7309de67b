"""Changes that a server publishes, announced to the sessions of the handshake era."""

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

_PAGE_SIZE: Final = 100
"""How many sessions one read of the store returns."""
_MIN_PAUSE_SECONDS: Final = 1.0
"""The shortest pause between two passes over the sessions. Without it, a server that publishes all the time would fill
the event logs and evict everything else."""
_MAX_PAUSE_SECONDS: Final = 5.0
"""The longest pause between two passes. A pass may have taken long because the store was unavailable."""


def list_changed_options(server: Server[Any]) -> InitializationOptions:
    """Return the server's initialization options, with `listChanged` declared for tools, prompts and resources."""
    return server.create_initialization_options(
        NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    )


class Announcements:
    """Announces changes on the standalone streams of all sessions, whichever process created them.

    Every session gets a notification that a list has changed. A session that has subscribed to a resource also gets a
    notification that the resource was updated. The notification is appended to the session's event log, so a client
    that connects later still gets it. If the store was unavailable, a session may get a notification twice; that is
    harmless, because an event says that something has changed, not what it is now.

    Publishing never waits. A background task takes all queued events and makes a pass over the sessions: it appends the
    events to one session after the other. After a pass it pauses for as long as the pass took, at least 1 and at most 5
    seconds, so that requests can use the store. Events that are published during a pass or a pause wait for the next
    pass. An event that is published several times in that time is announced once.

    Args:
        server: The server that publishes.
        manager: The sessions.
        log: The event log of the sessions.
    """

    def __init__(self, server: Server[Any], manager: SessionManager, log: EventLog) -> None:
        self._server = server
        self._manager = manager
        self._log = log
        self._queued: dict[ServerEvent, None] = {}
        self._has_queued = asyncio.Event()
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._flushing = asyncio.Event()

    def put(self, event: ServerEvent) -> None:
        """See `EventSink.put`."""
        if isinstance(event, ResourceUpdated) and self._server.get_request_handler(SUBSCRIBE) is None:
            return  # no session can have subscribed to it: a pass would find no receiver
        self._queued[event] = None
        self._all_sent.clear()
        self._has_queued.set()

    async def run(self) -> None:
        """See `EventSink.run`."""
        while True:
            await self._has_queued.wait()
            self._has_queued.clear()
            events, self._queued = list(self._queued), {}
            started_at = time.monotonic()
            try:
                await self._announce(events)
            except Exception:
                _log.exception("announcements.failed", events=len(events))
            if not self._queued:
                self._all_sent.set()
            pause = min(max(time.monotonic() - started_at, _MIN_PAUSE_SECONDS), _MAX_PAUSE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._flushing.wait()

    async def flush(self) -> None:
        """See `EventSink.flush`."""
        self._flushing.set()
        await self._all_sent.wait()

    async def _announce(self, events: Sequence[ServerEvent]) -> None:
        after = None
        while sessions := await retry_while_unavailable(partial(self._manager.page, after, _PAGE_SIZE), None):
            for session in sessions:
                for event in events:
                    if _concerns(session, event):
                        await self._append(session.key, event)
                await asyncio.sleep(0)  # the memory store never waits: let other tasks run
            after = sessions[-1].key

    async def _append(self, key: str, event: ServerEvent) -> None:
        try:
            await retry_while_unavailable(partial(self._log.append, key, STANDALONE, _notification(event)), None)
        except (SessionGone, ValueError):  # the session has ended, or the store cannot keep an event this large
            _log.debug("message.dropped", kind=type(event).__name__)


def _concerns(session: Session, event: ServerEvent) -> bool:
    # Also before `notifications/initialized`: the client may have requested its lists already.
    if session.is_handle:
        return False
    return not isinstance(event, ResourceUpdated) or event.uri in subscribed_uris(session.journal)


def _notification(event: ServerEvent) -> dict[str, Any]:
    method = event_to_notification(event, {}).method
    return jsonrpc.notification(method, {"uri": event.uri} if isinstance(event, ResourceUpdated) else None)
