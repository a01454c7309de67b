"""Notifications of changes, as `apps/changing.py` sends them."""

from __future__ import annotations

from typing import Final

from tests.integration.wire import EventStream

CHANGED_URI: Final = "memo://changed"
TOOLS_CHANGED: Final = "notifications/tools/list_changed"
PROMPTS_CHANGED: Final = "notifications/prompts/list_changed"
RESOURCES_CHANGED: Final = "notifications/resources/list_changed"


async def next_change(events: EventStream) -> str:
    """Return the next notification of a stream: the resource that it names, else its method."""
    message = await events.next_message()
    assert "_meta" not in message.get("params", {})
    return message.get("params", {}).get("uri") or message["method"]
