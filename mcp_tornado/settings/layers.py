"""Layers of settings: they are merged first, and then all values are validated at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeGuard

from pydantic import ValidationError

from mcp_tornado.settings.errors import ConfigError, format_source
from mcp_tornado.settings.masking import masked
from mcp_tornado.settings.models import Settings
from mcp_tornado.settings.table import SECTIONS, SETTINGS


def is_table(value: object) -> TypeGuard[Mapping[Any, object]]:
    """Return whether a value is a table."""
    return isinstance(value, Mapping)


def settings_from_sections(**sections: Mapping[str, object]) -> Settings:
    """Return validated settings from sections (`server={"port": 9000}`); the rest has its default.

    Reads no file and no variable.

    Raises:
        ConfigError: A section or a setting is unknown, or a value is not allowed.
    """
    layers = Layers()
    if "app" in sections:
        layers.problems.append("app is not a section")
    layers.add({name: section for name, section in sections.items() if name != "app"}, None)
    return layers.validate()


class Layers:
    """Collects the layers of settings, from the weakest to the strongest."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        """The problems so far, one line each."""
        self.sources: dict[str, str] = {}
        """The source of each value, by key."""
        self._values: dict[str, object] = {}

    def add(self, sections: Mapping[str, object], source: str | None) -> None:
        """Add a layer that is stronger than those so far.

        Args:
            sections: The settings by section, and those without a section.
            source: The name of the source, or `None` if messages need not name it.
        """
        for section, content in sections.items():
            if section not in SECTIONS:
                self._add_value(section, content, source)
            elif is_table(content):
                for key, value in content.items():
                    self._add_value(f"{section}.{key}", value, source)
            else:
                self._refuse(section, content, "a table of settings", source)

    def validate(self) -> Settings:
        """Validate the values and return them as settings.

        Raises:
            ConfigError: A value is not allowed, or there was a problem with a layer.
        """
        settings, refused = _validate_values(self._values)
        for key in sorted(refused, key=list(self._values).index):
            self._refuse(key, self._values[key], SETTINGS[key].allowed, self.sources.get(key))
        if settings is None or self.problems:
            raise ConfigError("\n".join(self.problems))
        return settings

    def _add_value(self, key: str, value: object, source: str | None) -> None:
        if key not in SETTINGS:
            nearest = difflib.get_close_matches(key, (*SETTINGS, *SECTIONS), n=1, cutoff=0)[0]
            self.problems.append(f"{key} is not a setting; did you mean {nearest}?{format_source(source)}")
            return
        weaker = self._values.get(key)
        self._values[key] = _merge(weaker, value)
        if source:
            merges = is_table(weaker) and is_table(value)
            self.sources[key] = f"{self.sources[key]}, {source}" if merges else source

    def _refuse(self, key: str, value: object, allowed: str, source: str | None) -> None:
        self.problems.append(f"{key}: {masked(key, value)!r} is not allowed: {allowed}{format_source(source)}")


def _merge(weaker: object, stronger: object) -> object:
    """Return the stronger value; two tables are merged."""
    if not is_table(weaker) or not is_table(stronger):
        return stronger
    return {**weaker, **{name: _merge(weaker.get(name), value) for name, value in stronger.items()}}


def _validate_values(values: Mapping[str, object]) -> tuple[Settings | None, frozenset[str]]:
    """Return the settings, or `None` and the keys of the values that are not allowed.

    pydantic's error does not leave this function, because it contains the values, which may be secret.
    """
    sections: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, {})[name] = value
    try:
        return Settings.model_validate({**sections.pop("", {}), **sections}), frozenset()
    except ValidationError as error:
        places = [problem["loc"] for problem in error.errors(include_input=False)]
    return None, frozenset(".".join(map(str, place[: 2 if place[0] in SECTIONS else 1])) for place in places)
