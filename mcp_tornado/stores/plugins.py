"""Finding stores: each is an entry point of the group `mcp_tornado.stores`, named after its URL scheme."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast, get_type_hints

from mcp_tornado.sessions.store import Clock, EventLog, SessionStore

GROUP: Final = "mcp_tornado.stores"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OURS: Final = {
    "mongodb": "mongodb",
    "mongodb+srv": "mongodb",
    "redis": "redis",
    "rediss": "redis",
    "sqlite": "sqlite",
}
"""Which extra of ours brings the store of a scheme."""

StoreFactory = Callable[[str, Mapping[str, Any], Clock], SessionStore]
"""Makes a store from its URL, the store options and a clock, without any I/O."""


class StorePluginError(Exception):
    """The store that a URL names cannot be made; the message says why and what there is instead."""


@dataclass(frozen=True, slots=True)
class InstalledStore:
    """A store that is installed, as `mcp-tornado stores` lists it."""

    scheme: str
    distribution: str | None
    """Which distribution it comes from; `None` where that cannot be told."""
    version: str | None
    """That distribution's version."""
    events: bool | None
    """Whether it keeps events; `None` where its factory does not say what it returns, or cannot be imported."""
    problem: str | None = None
    """Why it cannot be used; `None` where it can."""


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
    scheme = scheme_of(url)
    factory = _load(_pick(scheme))
    try:
        return factory(url, options, clock)
    except ValueError as error:
        # What a plugin says may quote the URL, and that may hold a password.
        reason = str(error).replace(url, f"{scheme}://***")
        raise StorePluginError(f"the store for {scheme}:// cannot be made: {reason}") from error
    except Exception as error:
        raise StorePluginError(f"the store for {scheme}:// cannot be made: {type(error).__name__}") from error


def scheme_of(url: str) -> str:
    """Return the scheme of a store's URL.

    Raises:
        StorePluginError: It has none.
    """
    found = _SCHEME.match(url)
    if found is None:
        raise StorePluginError("a store is named by a URL, such as memory://")
    return found[1]


def installed_stores() -> list[InstalledStore]:
    """Return all stores that are installed, by scheme; those that cannot be used say why.

    Every plugin is imported, to see whether its store keeps events; one that fails harms no other.
    """
    found = _entry_points()
    schemes = [point.name for point in found]
    return [_describe(point, twice=schemes.count(point.name) > 1) for point in found]


def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: (point.name, _distribution(point)))


def _pick(scheme: str) -> EntryPoint:
    found = _entry_points()
    candidates = [point for point in found if point.name == scheme]
    if not candidates:
        extra = _OURS.get(scheme)
        hint = f'; to get it: pip install "mcp-tornado[{extra}]"' if extra is not None else ""
        raise StorePluginError(f"no store is installed for {scheme}://; installed are: {_listed(found)}{hint}")
    if len(candidates) > 1:
        raise StorePluginError(
            f"more than one store is installed for {scheme}://: {_listed(candidates)}; uninstall all but one"
        )
    return candidates[0]


def _load(point: EntryPoint) -> StoreFactory:
    where = f"the store for {point.name}:// from {_distribution(point)}"
    try:
        factory = point.load()
    except (Exception, SystemExit) as error:  # a module may do anything when it is imported
        raise StorePluginError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(factory):
        raise StorePluginError(f"{where} cannot be used: its entry point names no factory, but {point.value}")
    return cast(StoreFactory, factory)


def _describe(point: EntryPoint, *, twice: bool) -> InstalledStore:
    events = problem = None
    try:
        events = _keeps_events(_load(point))
        if twice:
            problem = "more than one store is installed for this scheme; uninstall all but one"
    except StorePluginError as error:
        problem = str(error)
    dist = point.dist
    return InstalledStore(
        point.name,
        dist.name if dist is not None else None,
        dist.version if dist is not None else None,
        events,
        problem,
    )


def _keeps_events(factory: StoreFactory) -> bool | None:
    """Say whether what a factory returns keeps events, as far as it tells: no store is made to find out."""
    if inspect.isclass(factory):
        return issubclass(factory, EventLog)
    try:
        returned = get_type_hints(factory).get("return")
    except Exception:  # whatever a plugin's annotations hold, it is only not known then
        return None
    if not inspect.isclass(returned) or returned is SessionStore:
        return None
    return issubclass(returned, EventLog)


def _distribution(point: EntryPoint) -> str:
    dist = point.dist
    return f"{dist.name} {dist.version}" if dist is not None else "an unknown distribution"


def _listed(found: Iterable[EntryPoint]) -> str:
    return ", ".join(f"{point.name} ({_distribution(point)})" for point in found) or "none"
