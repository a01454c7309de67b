"""The command line. Each command has a module of its own, named after the command."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

import click

_SUMMARIES: Final = {
    "config": "Show the effective settings and the source of each.",
    "serve": "Serve an MCP server.",
    "stores": "List the installed stores.",
}
"""The commands, as `mcp-tornado --help` lists them. The module of a command defines a function of the same name."""


class _LazyGroup(click.Group):
    """A group that imports a command when it is used: some commands need the SDK, which takes a second to import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(_SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; return `None` if there is no command of that name."""
        if cmd_name not in _SUMMARIES:
            return None
        return cast(click.Command, getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mcp-tornado", prog_name="mcp-tornado")
def main() -> None:
    """Serve MCP servers with durable sessions."""
