"""Finding stores: each is an entry point of the group `mcp_tornado.stores`, named after its URL scheme."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

from mcp_tornado.sessions.store import Clock, SessionStore

GROUP: Final = "mcp_tornado.stores"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

StoreFactory = Callable[[str, Mapping[str, Any], Clock], SessionStore]
"""Makes a store from its URL, the store options and a clock, without any I/O."""


class StorePluginError(Exception):
    """The store that a URL names cannot be made; the message says why and what there is instead."""


def _distribution(entry_point: EntryPoint) -> str:
    dist = entry_point.dist
    return f"{dist.name} {dist.version}" if dist is not None else "an unknown distribution"


def _installed(found: list[EntryPoint]) -> str:
    return ", ".join(f"{point.name} ({_distribution(point)})" for point in sorted(found)) or "none"


def open_store(url: str, options: Mapping[str, Any], clock: Clock) -> SessionStore:
    """Return the store that a URL names, not yet entered; only its plugin is imported.

    Args:
        url: `scheme://…`; the scheme picks the plugin.
        options: What the plugin gets: the store options, and the bounds of the event log under `events`.
        clock: The time the store goes by.

    Raises:
        StorePluginError: No plugin has the scheme, two have it, the plugin cannot be imported, or it refuses
            the URL or the options. The message never holds the URL, which may hold a password.
    """
    found_scheme = _SCHEME.match(url)
    if found_scheme is None:
        raise StorePluginError("a store is named by a URL, such as memory://")
    scheme = found_scheme[1]
    found = list(entry_points(group=GROUP))
    candidates = [point for point in found if point.name == scheme]
    if not candidates:
        raise StorePluginError(f"no store is installed for {scheme}://; installed are: {_installed(found)}")
    if len(candidates) > 1:
        raise StorePluginError(
            f"more than one store is installed for {scheme}://: {_installed(candidates)}; uninstall all but one"
        )
    try:
        factory = cast(StoreFactory, candidates[0].load())
    except Exception as error:
        raise StorePluginError(
            f"the store for {scheme}:// from {_distribution(candidates[0])} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        return factory(url, options, clock)
    except ValueError as error:
        # What a plugin says may quote the URL, and that may hold a password.
        reason = str(error).replace(url, f"{scheme}://***")
        raise StorePluginError(f"the store for {scheme}:// cannot be made: {reason}") from error
