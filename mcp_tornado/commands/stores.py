"""`mcp-tornado stores`."""

from __future__ import annotations

import click

from mcp_tornado.commands.tables import echo_table
from mcp_tornado.stores.plugins import installed_stores


@click.command()
def stores() -> None:
    """List the installed stores: scheme, distribution, version, and whether the store keeps events."""
    rows = [("SCHEME", "DISTRIBUTION", "VERSION", "EVENTS")]
    problems: list[str] = []
    for store in installed_stores():
        events = "?" if store.events is None else "yes" if store.events else "no"
        rows.append((store.scheme, store.distribution or "?", store.version or "?", events))
        if store.problem is not None:
            problems.append(f"{store.scheme}: {store.problem}")
    echo_table(rows)
    for problem in problems:
        click.echo(problem, err=True)
