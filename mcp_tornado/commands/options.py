"""The options that several commands have, and the settings that they select."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mcp_tornado.settings import ConfigError, LoadedSettings, load_settings


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--store` and `--env` to a command; their values are for `load`."""
    for option in (
        click.option("--store", metavar="URL", help="The URL of the session store, such as memory://"),
        click.option("--env", metavar="ENV", help="The environment of settings.toml to use."),
    ):
        command = option(command)
    return command


def load(env: str | None, overrides: dict[str, Any]) -> LoadedSettings:
    """Load the settings; end the command with an error message if they are not valid.

    Args:
        env: The environment of `settings.toml`; `None` for the one that `MCP_TORNADO_ENV` names.
        overrides: The values of options, by settings key. `None` is an option that was not given.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return load_settings(env=env, overrides=given)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
