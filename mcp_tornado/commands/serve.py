"""`mcp-tornado serve`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final, NoReturn

import click

from mcp_tornado import log
from mcp_tornado.commands.find_server import FoundServer, find_server
from mcp_tornado.commands.options import load, settings_options
from mcp_tornado.hosting import NotServable, UserCodeFailed, check_applications
from mcp_tornado.server import CannotListen, start_workers
from mcp_tornado.server import serve as serve_until_signal
from mcp_tornado.sessions import SessionError, StoreError
from mcp_tornado.settings import ConfigError, LoadedSettings
from mcp_tornado.stores.plugins import StorePluginError
from mcp_tornado.supervisor import Worker, WorkersFailed

_INTERRUPTED_EXIT_CODE: Final = 130
_FASTMCP_LOGGER: Final = "fastmcp"
_FASTMCP_LOG_VARIABLE: Final = "FASTMCP_LOG_ENABLED"
_SERVE_ERRORS: Final = (ConfigError, NotServable, StorePluginError, StoreError, SessionError, CannotListen)
"""The reasons why a server cannot be served. Their messages are written for an operator."""


@click.command()
@click.argument("app", required=False)
@click.option("--host", help="The address to listen on.")
@click.option("--port", type=int, help="The port to listen on; 0 selects a free port.")
@click.option("--workers", type=int, help="The number of processes that serve.")
@settings_options
def serve(
    app: str | None, host: str | None, port: int | None, workers: int | None, store: str | None, env: str | None
) -> None:
    """Serve APP, which is package.module:attribute or path/to/file.py:attribute.

    The attribute is a server object, or a function without arguments that returns one. Without an attribute, mcp,
    server and app are tried.
    """
    if sys.platform == "win32":
        raise click.ClickException("Windows is not supported: run mcp-tornado in WSL or in a Linux container")
    overrides = {
        "app": app,
        "server.host": host,
        "server.port": port,
        "server.workers": workers,
        "sessions.store": store,
    }
    loaded = load(env, overrides)
    settings = loaded.settings
    log.configure(settings.log.level, settings.log.format)
    try:
        if settings.server.workers == 1:
            asyncio.run(_serve_found(_import_server(settings.app), loaded))
        else:
            _serve_with_workers(loaded)
    except (UserCodeFailed, WorkersFailed) as error:
        _end(str(error), error.traceback)
    except _SERVE_ERRORS as error:
        _end(str(error))
    except KeyboardInterrupt:
        raise click.exceptions.Exit(_INTERRUPTED_EXIT_CODE) from None  # Ctrl-C before the server handles signals
    except OSError as error:  # of the system: no more descriptors, for example
        _end(f"{type(error).__name__}: {error}")


def _end(message: str, traceback: str = "") -> NoReturn:
    """End the command with the traceback of a fault in the user's code, and one line that says what failed."""
    if traceback:
        click.echo(traceback, err=True, nl=False)
    raise click.ClickException(message)


async def _serve_found(found: FoundServer, loaded: LoadedSettings, worker: Worker | None = None) -> None:
    server = await found.resolve()
    check_applications(vars(found.module).values(), server)
    await serve_until_signal(server, loaded, worker)


def _serve_with_workers(loaded: LoadedSettings) -> None:
    worker = start_workers(loaded.settings)
    if worker is None:
        return
    # This process is a worker. The supervisor reports its failure, so that the reason is shown once and not per worker.
    try:
        asyncio.run(_serve_found(_import_server(loaded.settings.app), loaded, worker))
    except UserCodeFailed as error:
        worker.report_failure(str(error), error.traceback)
        raise click.exceptions.Exit(1) from error
    except _SERVE_ERRORS as error:
        worker.report_failure(str(error))
        raise click.exceptions.Exit(1) from error
    except OSError as error:
        worker.report_failure(f"{type(error).__name__}: {error}")
        raise click.exceptions.Exit(1) from error


def _import_server(name: str) -> FoundServer:
    """Find the server object of that name; if it is a FastMCP server, FastMCP logs in our format."""
    # FastMCP installs log handlers of its own when it is imported, unless this variable forbids it.
    value_before = os.environ.get(_FASTMCP_LOG_VARIABLE)
    os.environ[_FASTMCP_LOG_VARIABLE] = "false"
    try:
        server = find_server(name)
    finally:
        os.environ.pop(_FASTMCP_LOG_VARIABLE, None)  # processes that the server starts must not inherit it
        if value_before is not None:
            os.environ[_FASTMCP_LOG_VARIABLE] = value_before
    # At DEBUG, FastMCP logs the arguments of calls, which may hold state handles or secrets of users.
    log.take_over_logger(_FASTMCP_LOGGER, minimum_level=log.INFO)
    return server
