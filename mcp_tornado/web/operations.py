"""What operators and their machines ask for."""

# pyright: reportUnknownMemberType=false
# Tornado annotates write() and finish() with a bare dict.

from __future__ import annotations

from contextlib import suppress

from mcp_tornado.metrics import CONTENT_TYPE
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.web.base import BaseHandler


class HealthHandler(BaseHandler):
    """`/healthz`: the process is alive; touches nothing."""

    allowed = ("GET",)
    session_required = False
    checks_host = False

    def get(self) -> None:
        """Answer."""
        self.write_json({"status": "ok"})


class ReadyHandler(BaseHandler):
    """`/readyz`: the store answers and the process is not draining."""

    allowed = ("GET",)
    session_required = False
    checks_host = False

    async def get(self) -> None:
        """Answer, or refuse with 503."""
        if self.services.kernel.draining:
            raise SessionError(ErrorCode.SERVER_DRAINING)
        await self.services.manager.ping()
        self.write_json({"status": "ready"})


class MetricsHandler(BaseHandler):
    """`/metrics`: Prometheus text."""

    allowed = ("GET",)
    session_required = False

    async def get(self) -> None:
        """Answer; where the store is away, with the number of sessions it had last."""
        metrics = self.services.metrics
        with suppress(Exception):  # whatever the store raises, the other metrics are of use
            metrics.sessions_active.set(await self.services.manager.count())
        self.set_header("Content-Type", CONTENT_TYPE)
        self.write(metrics.render())
