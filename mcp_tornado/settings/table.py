"""The declarations of `mcp_tornado.settings.models`, by key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast, get_origin

from pydantic.fields import FieldInfo

from mcp_tornado.settings.models import Secrecy, Section, Settings
from mcp_tornado.settings.wording import describe_allowed_values


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting."""

    key: str
    """The name with its section: `server.port`."""

    field: FieldInfo

    @property
    def allowed(self) -> str:
        """The values that are allowed, in words."""
        return describe_allowed_values(self.field.annotation, self.field.metadata)

    @property
    def default(self) -> object:
        """The default."""
        return cast("object", self.field.get_default())

    @property
    def description(self) -> str:
        """What the setting does, in Markdown."""
        return self.field.description or ""

    @property
    def is_table(self) -> bool:
        """Whether the value is a table."""
        return get_origin(self.field.annotation) is Mapping

    @property
    def secrecy(self) -> Secrecy:
        """Which part of the value is secret."""
        return cast("Mapping[str, Secrecy]", self.field.json_schema_extra)["secrecy"]


def _sections() -> Iterator[tuple[str, type[Section]]]:
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield name, field.annotation


SECTIONS: Final[Mapping[str, type[Section]]] = MappingProxyType(dict(_sections()))
"""The sections by name, in the order of `Settings`."""


def _settings() -> Iterator[Setting]:
    for name, field in Settings.model_fields.items():
        if name not in SECTIONS:
            yield Setting(name, field)
    for section, model in SECTIONS.items():
        for name, field in model.model_fields.items():
            yield Setting(f"{section}.{name}", field)


SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType({setting.key: setting for setting in _settings()})
"""All settings by key: first those without a section, then section by section."""
