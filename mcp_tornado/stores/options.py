"""Reading the options that a store's factory is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Final

from mcp_tornado.sessions.store import EventBounds

_EVENTS: Final = "events"


def check_options(options: Mapping[str, Any], known: Collection[str] = ()) -> None:
    """Refuse options that a store does not have, beside `events`, which every store is given.

    Raises:
        ValueError: There are others; the message names them, and never their values.
    """
    unknown = sorted(set(options) - {_EVENTS, *known})
    if unknown:
        allowed = f"knows the options {', '.join(sorted(known))}" if known else "takes no options"
        raise ValueError(f"this store {allowed}, but was given: {', '.join(unknown)}")


def event_bounds(options: Mapping[str, Any]) -> EventBounds:
    """Return the bounds of the event log that stand in the options under `events`; what is left out is default.

    Raises:
        ValueError: There is a bound that does not exist.
    """
    bounds: Mapping[str, Any] = options.get(_EVENTS, {})
    unknown = sorted(set(bounds) - {bound.name for bound in fields(EventBounds)})
    if unknown:
        raise ValueError(f"there is no such bound of events: {', '.join(unknown)}")
    return EventBounds(**bounds)
