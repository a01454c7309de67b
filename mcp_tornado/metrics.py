"""Prometheus metrics, under the names that dashboards rely on.

A client cannot create label values without bound. The values for routes and methods are fixed. The name of a tool
becomes a label value only after a call of the tool succeeded (see `Metrics.count_tool_call`).
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
OTHER: Final = "other"
"""The label value for all names that have no label value of their own."""

_MAX_NAMED_TOOLS: Final = 200
_REQUEST_SECONDS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STORE_SECONDS_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)


class Metrics:
    """The metrics of one application, in their own registry."""

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        self.sessions_active = Gauge("mcp_tornado_sessions_active", "Live sessions", registry=registry)
        self.sessions_created = Counter("mcp_tornado_sessions_created_total", "Sessions created", registry=registry)
        self.sessions_closed = Counter(
            "mcp_tornado_sessions_closed_total", "Sessions ended", ["reason"], registry=registry
        )
        self.session_validations = Counter(
            "mcp_tornado_session_validations_total", "Sessions looked up", ["outcome"], registry=registry
        )
        self.validation_ok = self.session_validations.labels("ok")
        self.streams_active = Gauge("mcp_tornado_streams_active", "Open SSE streams", ["kind"], registry=registry)
        self.http_requests = Counter(
            "mcp_tornado_http_requests_total",
            "HTTP requests answered",
            ["handler", "method", "code"],
            registry=registry,
        )
        self.http_duration = Histogram(
            "mcp_tornado_http_request_duration_seconds",
            "Time to answer an HTTP request, without streams",
            ["handler", "method"],
            buckets=_REQUEST_SECONDS_BUCKETS,
            registry=registry,
        )
        self.tool_calls = Counter(
            "mcp_tornado_tool_calls_total", "Tool calls finished", ["tool", "outcome"], registry=registry
        )
        self.store_duration = Histogram(
            "mcp_tornado_store_operation_duration_seconds",
            "Time a store operation took",
            ["operation"],
            buckets=_STORE_SECONDS_BUCKETS,
            registry=registry,
        )
        self.store_errors = Counter(
            "mcp_tornado_store_errors_total", "Store operations that failed", ["operation"], registry=registry
        )
        self.cleanup_last_success = Gauge(
            "mcp_tornado_cleanup_last_success_timestamp_seconds",
            "When the last sweep succeeded",
            registry=registry,
        )
        Info("mcp_tornado_build", "The running version", registry=registry).info({"version": version})
        self._named_tools: set[str] = set()
        # `labels()` takes a lock and looks up strings at every call, so the series are cached.
        self._tool_series: dict[tuple[str, str], Counter] = {}
        self._request_series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def count_tool_call(self, tool: object, outcome: str) -> None:
        """Count a finished call.

        A name becomes a label value only after a call succeeded, and only the first 200 names do; all others are
        counted as `other`. So a client cannot create series at will.

        Args:
            tool: The name that the client sent, of any type.
            outcome: The label value `outcome`; `"ok"` is a success.
        """
        name = OTHER
        if isinstance(tool, str):
            if outcome == "ok" and len(self._named_tools) < _MAX_NAMED_TOOLS:
                self._named_tools.add(tool)
            if tool in self._named_tools:
                name = tool
        series = self._tool_series.get((name, outcome))
        if series is None:
            series = self._tool_series[name, outcome] = self.tool_calls.labels(name, outcome)
        series.inc()

    def count_request(self, handler: str, method: str, code: int, seconds: float | None) -> None:
        """Count an answered HTTP request; `seconds` is its duration, `None` for a stream."""
        series = self._request_series.get((handler, method, code))
        if series is None:
            series = (
                self.http_requests.labels(handler, method, str(code)),
                self.http_duration.labels(handler, method),
            )
            self._request_series[handler, method, code] = series
        series[0].inc()
        if seconds is not None:
            series[1].observe(seconds)

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
