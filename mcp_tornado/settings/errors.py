"""The error that all problems with settings are reported by."""

from __future__ import annotations


class ConfigError(ValueError):
    """The settings cannot be used.

    The message has one line for each problem. A line names the setting, shows its value (`masked`) and says which
    values are allowed. If the settings were loaded, the line also names the source of the value.
    """


def format_source(source: str | None) -> str:
    """Return the end of a line of a `ConfigError`, which names the source of the value; empty for `None`."""
    return f" (from {source})" if source else ""
