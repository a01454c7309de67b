"""The parts of an application that handlers use, created once per application."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tornado.web import RequestHandler

from mcp_tornado.kernel import Kernel
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import SessionManager
from mcp_tornado.settings import Settings
from mcp_tornado.web.guards import HostGuard, OriginGuard

SERVICES_KEY: Final = "mcp_tornado"
"""The key of the services in an application's settings, so that handlers of an embedding application find them."""


class ActiveRequests:
    """The requests without a whole response, so that a shutdown can wait until the responses are written."""

    def __init__(self) -> None:
        self._handlers: set[RequestHandler] = set()
        self._none_left = asyncio.Event()
        self._last_added_at = 0.0

    def add(self, handler: RequestHandler) -> None:
        """Add the handler of a request that has begun."""
        self._last_added_at = time.monotonic()
        self._handlers.add(handler)

    def remove(self, handler: RequestHandler) -> None:
        """Remove a handler that has finished, or whose client has disconnected."""
        self._handlers.discard(handler)
        if not self._handlers:
            self._none_left.set()

    async def wait_until_answered(self, timeout: float) -> None:
        """Wait until every request is answered, at most `timeout` seconds."""
        self._none_left.clear()
        if not self._handlers:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._none_left.wait()

    async def wait_for_pause(self, pause: float, timeout: float) -> None:
        """Wait until no request has arrived for `pause` seconds, at most `timeout` seconds."""
        started_at = time.monotonic()
        while True:
            now = time.monotonic()
            wait = min(max(self._last_added_at, started_at) + pause, started_at + timeout) - now
            if wait <= 0:
                return
            await asyncio.sleep(wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of one application."""

    settings: Settings
    manager: SessionManager
    kernel: Kernel
    metrics: Metrics
    hosts: HostGuard
    origins: OriginGuard
    active: ActiveRequests
    process: str = field(default_factory=lambda: secrets.token_hex(3))
    """A random name of this process, part of the request ids in the logs."""
