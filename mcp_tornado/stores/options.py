"""Reading the options of a store's factory, a helper for stores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, Final

from mcp_tornado.sessions.store import EventBounds

_EVENTS_OPTION: Final = "events"


def check_options(options: Mapping[str, Any], known: Collection[str] = ()) -> None:
    """Check that all options are known. The option `events`, which every store receives, is always known.

    Raises:
        ValueError: There are unknown options. The message holds their names and never their values.
    """
    unknown = sorted(set(options) - {_EVENTS_OPTION, *known})
    if unknown:
        allowed = f"its options are {', '.join(sorted(known))}" if known else "it has no options"
        raise ValueError(f"this store does not have these options: {', '.join(unknown)}; {allowed}")


def event_bounds(options: Mapping[str, Any]) -> EventBounds:
    """Return the bounds of the event log from the option `events`. Missing bounds have their defaults.

    Raises:
        ValueError: A bound does not exist.
    """
    bounds: Mapping[str, Any] = options.get(_EVENTS_OPTION, {})
    unknown = sorted(set(bounds) - {bound.name for bound in fields(EventBounds)})
    if unknown:
        raise ValueError(f"the event log does not have these bounds: {', '.join(unknown)}")
    return EventBounds(**bounds)
