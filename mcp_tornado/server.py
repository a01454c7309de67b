"""The server process: listen, serve, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from tornado.netutil import bind_sockets

from mcp_tornado.app import MCPApplication, create_app_from_settings, create_store_from_settings
from mcp_tornado.hosting import Offers, UserCodeFailed, count_offers
from mcp_tornado.http1 import BACKLOG_CONNECTIONS, Server
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog
from mcp_tornado.settings import ConfigError, LoadedSettings, Settings, masked
from mcp_tornado.stores.plugins import scheme_of
from mcp_tornado.supervisor import Worker, supervise
from mcp_tornado.web.guards import is_loopback

_log = get_logger(__name__)

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_GC_THRESHOLD_OBJECTS: Final = 10_000
"""How many new objects start a garbage collection. One request creates more than 700, the default of Python 3.11."""
_FORCED_EXIT_SECONDS: Final = 3.0
"""How long threads may keep a stopped server's process alive."""


class CannotListen(Exception):
    """The process cannot listen on the address; the message names it and says why."""


def start_workers(settings: Settings) -> Worker | None:
    """Listen, and fork as many workers as the settings say.

    Returns:
        In each worker process, its `Worker`. In the supervisor process, `None` after all workers have ended; see
        `supervise`.

    Raises:
        ConfigError: The store or the system does not allow several workers.
        StorePluginError: The store cannot be created.
        WorkersFailed: A worker cannot serve.
        CannotListen: The process cannot listen on the address.
    """
    _check_workers(settings)
    sockets = _bind(settings)
    return supervise(sockets, settings.server.workers, settings.server.shutdown_grace_seconds)


def _check_workers(settings: Settings) -> None:
    store = create_store_from_settings(settings)
    scheme = scheme_of(settings.sessions.store)
    if not type(store).shared:
        reason = f"workers need a store that processes can share, but {scheme}:// keeps the sessions in one process"
    elif not isinstance(store, EventLog):
        reason = f"workers need a store that keeps events, but {scheme}:// keeps only sessions"
    elif not hasattr(os, "fork"):
        reason = "this system cannot fork processes"
    else:
        return
    raise ConfigError(f"server.workers: cannot run {settings.server.workers} workers: {reason}; use 1")


async def serve(server: object, loaded: LoadedSettings, worker: Worker | None = None) -> None:
    """Serve a server object until SIGTERM or SIGINT, then drain and return; a second signal ends the process at once.

    Args:
        server: An SDK `MCPServer`, a low-level `Server`, or a FastMCP server.
        loaded: The settings.
        worker: The role of this process if it is one of several workers; then its supervisor decides when it stops.
            `/metrics` and `/readyz` answer for the process that gets the request, not for all workers.

    Raises:
        ConfigError, NotServable, StorePluginError: The server cannot be served; see `create_app`.
        CannotListen: The process cannot listen on the address.
        UserCodeFailed: The server's lifespan has raised an exception.
    """
    settings = loaded.settings
    app = create_app_from_settings(server, settings)
    stop = _watch_stop_signals() if worker is None else worker.watch_stop_requests()
    sockets = _bind(settings) if worker is None else worker.sockets
    try:
        await _serve_until_stopped(server, app, sockets, loaded, stop, worker)
    except BaseException as error:
        if error is app.lifespan_error:
            raise UserCodeFailed("the server's lifespan failed", error) from error
        raise
    _log.info("server.stopped", pid=os.getpid())
    _schedule_forced_exit()


async def _serve_until_stopped(
    server: object,
    app: MCPApplication,
    sockets: Sequence[socket.socket],
    loaded: LoadedSettings,
    stop: asyncio.Event,
    worker: Worker | None,
) -> None:
    settings = loaded.settings
    async with app.lifespan():
        offers = await count_offers(server)
        http = Server(app, xheaders=settings.server.xheaders)
        await http.listen(sockets)
        _tune_garbage_collection()
        _log_start(loaded, _url(settings, sockets[0]), [each.getsockname()[0] for each in sockets], offers)
        if worker is not None:
            worker.report_serving()
        await stop.wait()
        if worker is not None and worker.has_lost_supervisor:
            http.stop()  # a new supervisor needs the address
        await _drain(app, http, settings.server.shutdown_grace_seconds)


# ---------------------------------------------------------------- start


def _bind(settings: Settings) -> list[socket.socket]:
    host, port = settings.server.host, settings.server.port
    try:
        return bind_sockets(port, host, backlog=BACKLOG_CONNECTIONS)
    except (OSError, UnicodeError) as error:  # UnicodeError: the name is not a valid host name
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise CannotListen(f"cannot listen on {host}:{port}: {reason}") from error


def _watch_stop_signals() -> asyncio.Event:
    """Return an event that the first SIGTERM or SIGINT sets; the second one ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _tune_garbage_collection() -> None:
    """Exclude the objects of the start from garbage collection, as they live as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD_OBJECTS)


def _log_start(loaded: LoadedSettings, url: str, addresses: Sequence[str], offers: Offers) -> None:
    _log.info(
        "server.started",
        version=version("mcp-tornado"),
        pid=os.getpid(),
        url=url,
        app=loaded.settings.app,
        store=masked("sessions.store", loaded.settings.sessions.store),
        environment=loaded.environment,
        settings_files=list(loaded.files),
        tools=offers.tools,
    )
    allowed_hosts = loaded.settings.server.allowed_hosts
    if not all(map(is_loopback, addresses)) and all(map(is_loopback, allowed_hosts)):
        _log.warning(
            "server.hosts_loopback",
            host=loaded.settings.server.host,
            allowed_hosts=list(allowed_hosts),
            hint="the server listens for other machines, but server.allowed_hosts has loopback names only: requests "
            "to any other host name are refused with 421 MISDIRECTED_HOST. Set server.allowed_hosts to the names "
            "that clients use",
        )
    if offers.is_empty:
        _log.warning(
            "server.empty",
            app=loaded.settings.app,
            hint="the server has no tools, prompts or resources. If a function adds them, such as main(), serve a "
            "function without arguments that adds them and returns the server: package.module:function",
        )


def _url(settings: Settings, listening: socket.socket) -> str:
    host = settings.server.host
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}{settings.server.path}"


# ---------------------------------------------------------------- stop


async def _drain(app: MCPApplication, http: Server, grace: float) -> None:
    _log.info("server.draining", pid=os.getpid(), grace_seconds=grace)
    # The server still accepts connections: a load balancer must see that /readyz answers 503.
    await app.drain(grace)
    http.stop()
    await http.close_all_connections()


def _schedule_forced_exit() -> None:
    """End the process soon, even if a plain function of a tool still runs in a thread."""
    timer = threading.Timer(_FORCED_EXIT_SECONDS, os._exit, [0])
    timer.daemon = True
    timer.start()
