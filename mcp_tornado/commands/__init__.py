"""The command line."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from mcp_tornado import log
from mcp_tornado.hosting import NotServable
from mcp_tornado.server import serve as serve_forever
from mcp_tornado.server import start_workers
from mcp_tornado.sessions import SessionError, StoreError
from mcp_tornado.settings import ConfigError, LoadedSettings, Settings, describe, load_settings
from mcp_tornado.stores.plugins import StorePluginError, installed_stores
from mcp_tornado.supervisor import WorkersFailed

_INTERRUPTED: Final = 130
_FASTMCP_LOGGER: Final = "fastmcp"
_FASTMCP_LOGS: Final = "FASTMCP_LOG_ENABLED"
_REFUSALS: Final = (ConfigError, NotServable, StorePluginError, StoreError, SessionError)
"""Why a server cannot be served, in words for an operator."""


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--store", metavar="URL", help="Where sessions live, such as memory://"),
        click.option("--env", metavar="ENV", help="The environment of settings.toml to use."),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mcp-tornado", prog_name="mcp-tornado")
def main() -> None:
    """Serve MCP servers whose sessions survive."""


@main.command()
@click.argument("app", required=False)
@click.option("--host", help="The address to listen on.")
@click.option("--port", type=int, help="The port to listen on; 0 takes any that is free.")
@click.option("--workers", type=int, help="How many processes serve.")
@_settings_options
def serve(
    app: str | None, host: str | None, port: int | None, workers: int | None, store: str | None, env: str | None
) -> None:
    """Serve APP, which is package.module:attribute or path/to/file.py:attribute."""
    loaded = _load(
        env,
        {
            "app": app,
            "server.host": host,
            "server.port": port,
            "server.workers": workers,
            "sessions.store": store,
        },
    )
    settings = loaded.settings
    log.configure(settings.log.level, settings.log.format)
    try:
        if settings.server.workers == 1:
            asyncio.run(serve_forever(_server_to_serve(settings.app), settings))
        else:
            _serve_in_workers(settings)
    except (*_REFUSALS, WorkersFailed) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.exceptions.Exit(_INTERRUPTED) from None  # Ctrl-C before there was anything to stop gracefully
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        raise click.ClickException(f"cannot listen on {where}: {error.strerror or error}") from error


def _serve_in_workers(settings: Settings) -> None:
    worker = start_workers(settings)
    if worker is None:
        return
    # This is a worker. It leaves it to the supervisor to say what is wrong: once, and not once for each.
    try:
        asyncio.run(serve_forever(_server_to_serve(settings.app), settings, worker))
    except _REFUSALS as error:
        worker.tell_failure(str(error))
        raise click.exceptions.Exit(1) from error
    except OSError as error:
        worker.tell_failure(f"{type(error).__name__}: {error}")
        raise click.exceptions.Exit(1) from error


@main.command()
@_settings_options
def config(store: str | None, env: str | None) -> None:
    """Show the effective settings and where each comes from."""
    _echo_table([(key, repr(value), source) for key, value, source in describe(_load(env, {"sessions.store": store}))])


@main.command()
def stores() -> None:
    """List the installed stores: scheme, distribution, version, whether they keep events."""
    rows = [("SCHEME", "DISTRIBUTION", "VERSION", "EVENTS")]
    problems: list[str] = []
    for found in installed_stores():
        events = "?" if found.events is None else "yes" if found.events else "no"
        rows.append((found.scheme, found.distribution or "?", found.version or "?", events))
        if found.problem is not None:
            problems.append(f"{found.scheme}: {found.problem}")
    _echo_table(rows)
    for problem in problems:
        click.echo(problem, err=True)


def _echo_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _load(env: str | None, overrides: dict[str, Any]) -> LoadedSettings:
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return load_settings(env=env, overrides=given)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def _server_to_serve(name: str) -> object:
    """Find the server, and let FastMCP log as we do: it makes handlers of its own where it is imported."""
    told = os.environ.get(_FASTMCP_LOGS)
    os.environ[_FASTMCP_LOGS] = "false"
    try:
        server = find_server(name)
    finally:
        os.environ.pop(_FASTMCP_LOGS, None)  # the programs that the server starts log as they like
        if told is not None:
            os.environ[_FASTMCP_LOGS] = told
    # At DEBUG it logs the arguments of calls, which may be handles, or secrets of the user's.
    log.adopt(_FASTMCP_LOGGER, lowest=log.INFO)
    return server


def find_server(name: str) -> object:
    """Return the object that `package.module:attribute` or `path/to/file.py:attribute` names.

    Raises:
        NotServable: There is none, or its module fails to import; the message says what to do.
    """
    target, colon, attribute = name.rpartition(":")
    if not colon or not target or not attribute:
        raise NotServable(f"{name!r} names no server: write package.module:attribute or path/to/file.py:attribute")
    module: object = _import_file(Path(target)) if target.endswith(".py") else _import_module(target)
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [key for key in dir(module) if not key.startswith("_")]
            raise NotServable(f"{target} has no {attribute!r}; it has: {', '.join(public[:20]) or 'nothing'}")
        found = getattr(found, part)
    return found


def _import_module(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            hint = "install its package, run this in its directory, or write path/to/file.py:attribute"
            raise NotServable(f"there is no module {error.name!r}: {hint}") from error
        raise NotServable(f"{name} cannot be imported: {error}") from error
    except Exception as error:
        raise NotServable(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise NotServable(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise NotServable(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # The file may import what lies beside it, and be found again by what unpickles its classes.
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise NotServable(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
