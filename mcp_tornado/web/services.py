"""What handlers work with, made once per application."""

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
"""Where an application's settings hold its services, for handlers that were not made by us."""


class ActiveRequests:
    """The requests that are being answered, so that a shutdown can wait for the answers to be written."""

    def __init__(self) -> None:
        self._handlers: set[RequestHandler] = set()
        self._none = asyncio.Event()
        self._entered_at = 0.0

    def enter(self, handler: RequestHandler) -> None:
        """Note that a handler begins."""
        self._entered_at = time.monotonic()
        self._handlers.add(handler)

    def leave(self, handler: RequestHandler) -> None:
        """Note that a handler has finished, or has lost its client."""
        self._handlers.discard(handler)
        if not self._handlers:
            self._none.set()

    async def finished(self, timeout: float) -> None:
        """Wait until nothing is being answered, at most `timeout` seconds."""
        self._none.clear()
        if not self._handlers:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._none.wait()

    async def quiet(self, seconds: float, timeout: float) -> None:
        """Wait until no request has come for so many seconds, at most `timeout` seconds."""
        began = time.monotonic()
        while True:
            now = time.monotonic()
            wait = min(max(self._entered_at, began) + seconds, began + timeout) - now
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
    """Tells the requests of this process from those of others, in the logs."""
