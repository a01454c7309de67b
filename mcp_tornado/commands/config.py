"""`mcp-tornado config`."""

from __future__ import annotations

import click

from mcp_tornado.commands.options import load, settings_options
from mcp_tornado.commands.tables import echo_table
from mcp_tornado.settings import describe


@click.command()
@settings_options
def config(store: str | None, env: str | None) -> None:
    """Show the effective settings and the source of each."""
    loaded = load(env, {"sessions.store": store})
    echo_table([(key, repr(value), source) for key, value, source in describe(loaded)])
