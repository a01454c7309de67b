"""Helpers of the tests of the transport chapters of the specification."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.integration.stateless_era import envelope, stateless_headers
from tests.integration.wire import LATEST, STATELESS, Wire

UNPRIMED_REVISIONS: Final = ["2025-03-26", "2025-06-18"]
"""The revisions without priming events."""
HANDSHAKE_REVISIONS: Final = [*UNPRIMED_REVISIONS, LATEST]
RETRY_MILLISECONDS: Final = 321
"""The setting `events.retry_milliseconds` of the servers."""
CHANGES: Final = ["tools/list_changed", "prompts/list_changed", "resources/list_changed", "resources/updated"]
"""The notifications that the tool `change` sends."""

in_handshake_revisions = pytest.mark.parametrize("version", HANDSHAKE_REVISIONS)
in_all_revisions = pytest.mark.parametrize("version", [*HANDSHAKE_REVISIONS, STATELESS])


async def use_revision(wire: Wire, version: str) -> Wire:
    """Open a session of this revision, or prepare the client for the stateless era."""
    if version != STATELESS:
        return await wire.open_session(version)
    wire.headers = {"MCP-Protocol-Version": STATELESS}
    return wire


def tool_request_in(
    version: str, wire: Wire, name: str, *, meta: dict[str, Any] | None = None, **arguments: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a tool call as this revision has it, and its headers."""
    given = {**(envelope() if version == STATELESS else {}), **(meta or {})}
    message = wire.tool_request(name, meta=given, **arguments)
    return message, stateless_headers("tools/call", name) if version == STATELESS else {}
