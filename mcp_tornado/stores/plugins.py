"""Finding store plugins: entry points of the group `mcp_tornado.stores`, named after their URL scheme."""

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
_EXTRA_BY_SCHEME: Final = {
    "mongodb": "mongodb",
    "mongodb+srv": "mongodb",
    "redis": "redis",
    "rediss": "redis",
    "sqlite": "sqlite",
}
"""The extra of mcp-tornado that installs the store for a scheme."""

StoreFactory = Callable[[str, Mapping[str, Any], Clock], SessionStore]
"""Creates a store from its URL, the store options and a clock, without I/O."""


class StorePluginError(Exception):
    """The store for a URL cannot be created. The message names the reason and the installed stores."""


@dataclass(frozen=True, slots=True)
class InstalledStore:
    """An installed store, as `mcp-tornado stores` lists it."""

    scheme: str
    distribution: str | None
    """The distribution that contains the store; `None` if it is unknown."""
    version: str | None
    """The version of the distribution; `None` if it is unknown."""
    events: bool | None
    """Whether the store keeps events; `None` if its factory has no usable annotation or cannot be imported."""
    problem: str | None = None
    """The reason why the store cannot be used; `None` if it can."""


def open_store(url: str, options: Mapping[str, Any], clock: Clock) -> SessionStore:
    """Return the store for a URL, not yet entered. Only its plugin is imported.

    Args:
        url: `scheme://…`; the scheme selects the plugin.
        options: The store options, with the bounds of the event log under `events`.
        clock: The clock of the store.

    Raises:
        StorePluginError: No plugin or more than one has the scheme, the plugin cannot be imported, or it refuses the
            URL or the options. The message never holds the URL, which may contain a password.
    """
    scheme = scheme_of(url)
    factory = _load(_entry_point_of(scheme))
    try:
        return factory(url, options, clock)
    except ValueError as error:
        # The message of a plugin may quote the URL, which may contain a password.
        reason = str(error).replace(url, f"{scheme}://***")
        raise StorePluginError(f"the store for {scheme}:// cannot be created: {reason}") from error
    except Exception as error:
        raise StorePluginError(f"the store for {scheme}:// cannot be created: {type(error).__name__}") from error


def scheme_of(url: str) -> str:
    """Return the scheme of a store's URL.

    Raises:
        StorePluginError: The URL has no scheme.
    """
    found = _SCHEME.match(url)
    if found is None:
        raise StorePluginError("a store is given as a URL, such as memory://")
    return found[1]


def installed_stores() -> list[InstalledStore]:
    """Return all installed stores, sorted by scheme. Stores that cannot be used have a `problem`.

    This imports every plugin, to find out whether its store keeps events. A plugin that fails does not affect others.
    """
    found = _entry_points()
    schemes = [point.name for point in found]
    return [_describe(point, is_ambiguous=schemes.count(point.name) > 1) for point in found]


def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: (point.name, _distribution(point)))


def _entry_point_of(scheme: str) -> EntryPoint:
    found = _entry_points()
    candidates = [point for point in found if point.name == scheme]
    if not candidates:
        extra = _EXTRA_BY_SCHEME.get(scheme)
        hint = f'; install it with: pip install "mcp-tornado[{extra}]"' if extra is not None else ""
        raise StorePluginError(f"no store is installed for {scheme}://; installed stores: {_format_list(found)}{hint}")
    if len(candidates) > 1:
        raise StorePluginError(
            f"more than one store is installed for {scheme}://: {_format_list(candidates)}; uninstall all but one"
        )
    return candidates[0]


def _load(point: EntryPoint) -> StoreFactory:
    subject = f"the store for {point.name}:// from {_distribution(point)}"
    try:
        factory = point.load()
    except (Exception, SystemExit) as error:  # the import of a module may raise anything
        raise StorePluginError(f"{subject} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(factory):
        raise StorePluginError(f"{subject} cannot be used: its entry point {point.value} is no factory")
    return cast(StoreFactory, factory)


def _describe(point: EntryPoint, *, is_ambiguous: bool) -> InstalledStore:
    events = problem = None
    try:
        events = _keeps_events(_load(point))
        if is_ambiguous:
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
    """Return whether the stores of a factory keep events, by its annotation; `None` if that is unknown.

    No store is created to find out.
    """
    if inspect.isclass(factory):
        return issubclass(factory, EventLog)
    try:
        returned = get_type_hints(factory).get("return")
    except Exception:  # the annotations of a plugin may raise anything when they are evaluated
        return None
    if not inspect.isclass(returned) or returned is SessionStore:
        return None
    return issubclass(returned, EventLog)


def _distribution(point: EntryPoint) -> str:
    dist = point.dist
    return f"{dist.name} {dist.version}" if dist is not None else "an unknown distribution"


def _format_list(found: Iterable[EntryPoint]) -> str:
    return ", ".join(f"{point.name} ({_distribution(point)})" for point in found) or "none"
