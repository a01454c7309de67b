"""The settings: which there are, which values are allowed, and the source of each value.

`load_settings` serves the command line: it reads files and variables. `settings_from_sections` serves embedders: it
reads neither. Both validate everything and return frozen models.

`models` is the one table of the settings. `values` has the types of their values and `wording` their words, `layers`
merges and validates, `sources` reads files and variables, `masking` hides secrets, and `reference` writes
`docs/settings.md`.
"""

from mcp_tornado.settings.errors import ConfigError
from mcp_tornado.settings.layers import settings_from_sections
from mcp_tornado.settings.loaded import LoadedSettings, describe
from mcp_tornado.settings.masking import masked
from mcp_tornado.settings.models import (
    EventSettings,
    LogSettings,
    MetricsSettings,
    ServerSettings,
    SessionSettings,
    Settings,
)
from mcp_tornado.settings.sources import load_settings

__all__ = [
    "ConfigError",
    "EventSettings",
    "LoadedSettings",
    "LogSettings",
    "MetricsSettings",
    "ServerSettings",
    "SessionSettings",
    "Settings",
    "describe",
    "load_settings",
    "masked",
    "settings_from_sections",
]
