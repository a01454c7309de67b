"""Probes and metrics, for operators and their monitoring."""

# pyright: reportUnknownMemberType=false
# Tornado annotates write() and finish() with a bare dict.

from __future__ import annotations

from contextlib import suppress

from mcp_tornado.metrics import CONTENT_TYPE
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.web.base import BaseHandler


class HealthHandler(BaseHandler):
    """`/healthz`: the process is alive; uses neither the store nor the kernel."""

    allowed_methods = ("GET", "HEAD")
    session_required = False
    is_polled = True
    checks_host = False

    def get(self) -> None:
        """Answer 200."""
        self.write_json({"status": "ok"})

    head = get


class ReadyHandler(BaseHandler):
    """`/readyz`: the store answers, and the process is not draining."""

    allowed_methods = ("GET", "HEAD")
    session_required = False
    is_polled = True
    checks_host = False

    async def get(self) -> None:
        """Answer 200, or refuse with 503."""
        if self.services.kernel.draining:
            raise SessionError(ErrorCode.SERVER_DRAINING)
        await self.services.manager.ping()
        self.write_json({"status": "ready"})

    head = get


class MetricsHandler(BaseHandler):
    """`/metrics`: the metrics in the text format of Prometheus."""

    allowed_methods = ("GET", "HEAD")
    session_required = False
    is_polled = True

    async def get(self) -> None:
        """Answer the metrics; if the store is unavailable, the number of sessions is the last known one."""
        metrics = self.services.metrics
        with suppress(Exception):  # the other metrics are useful without the store
            metrics.sessions_active.set(await self.services.manager.count())
        self.set_header("Content-Type", CONTENT_TYPE)
        self.write(metrics.render())

    head = get
