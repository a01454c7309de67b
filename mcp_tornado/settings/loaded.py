"""Settings that were loaded, with the source of each value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mcp_tornado.settings.masking import masked
from mcp_tornado.settings.models import Settings
from mcp_tornado.settings.table import SETTINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSettings:
    """Settings, and the source of each value, by key (`server.port`).

    A source is `default`, `settings.toml [production]`, `.secrets.toml [default]`, `command line`, or the name of a
    variable. A table can be merged from several sources: then all are named, the strongest last.
    """

    settings: Settings
    sources: Mapping[str, str]
    environment: str
    """The environment whose tables are used."""
    files: tuple[str, ...]
    """The absolute paths of the files that were read."""


def describe(loaded: LoadedSettings) -> list[tuple[str, object, str]]:
    """List every setting as its key, its value (`masked`), and its source."""
    return [(key, masked(key, _value_of(loaded.settings, key)), loaded.sources[key]) for key in SETTINGS]


def _value_of(settings: Settings, key: str) -> object:
    value: object = settings
    for name in key.split("."):
        value = getattr(value, name)
    return value
