"""Hypothesis strategies for bad requests, and the settings of the tests that use them."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.web.service import LIVE_SESSION, Headers

MANY_EXAMPLES = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

METHODS_OF_MCP = [
    "initialize",
    "ping",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "server/discover",
    "tasks/get",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "sampling/createMessage",
    "elicitation/create",
    "roots/list",
]

mcp_paths = st.sampled_from(
    ["/mcp", "/mcp/session", "/mcp/send", "/mcp/receive", "/mcp/abort", "/mcp/", "/mcp/session/"]
)
paths_with_body = st.sampled_from(["/mcp", "/mcp/session", "/mcp/send", "/mcp/abort"])
all_paths = mcp_paths | st.sampled_from(
    ["/healthz", "/readyz", "/metrics", "/", "/x", "/mcp/x", "/%ff", "//", "/mcp%00"]
)
http_methods = st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD", "BREW", "get"])
visible_latin_1 = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60
).map(lambda text: text.strip().encode("latin-1"))
session_ids = (
    st.sampled_from([LIVE_SESSION, LIVE_SESSION, None, b"", b"unknown", b"A" * 43, b"A" * 200]) | visible_latin_1
)
versions = st.sampled_from(
    [None, None, b"2025-11-25", b"2025-03-26", b"2024-11-05", b"2026-07-28", b"x", b"2026-07-28, x"]
)
header_values = visible_latin_1 | st.sampled_from(
    [b"", b"*", b"*/*", b";", b",", b"a;b=c", b"application/json", b"text/event-stream", b"null"]
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


def version_header(version: bytes | None) -> Headers:
    return [] if version is None else [("MCP-Protocol-Version", version)]


def mostly(good: Any, bad: Any = json_values) -> Any:
    """Return a strategy for a member of a message: mostly right, otherwise wrong or `...`, which leaves it out."""
    return st.sampled_from([good, good, ...]) | bad


def without_omitted(value: dict[str, Any]) -> dict[str, Any]:
    """Return an object without the members that are `...`."""
    return {key: member for key, member in value.items() if member is not ...}
