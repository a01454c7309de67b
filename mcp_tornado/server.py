"""The long-lived process: listen, serve, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from importlib.metadata import version
from typing import Final

from tornado.netutil import bind_sockets

from mcp_tornado.app import MCPApplication, app_from_settings, store_from_settings
from mcp_tornado.http1 import Server
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog
from mcp_tornado.settings import ConfigError, Settings
from mcp_tornado.stores.plugins import scheme_of
from mcp_tornado.supervisor import Worker, supervise

_log = get_logger(__name__)

_EXIT_SECONDS: Final = 3.0
_GC_THRESHOLD: Final = 10_000
"""Python looks for cycles after so many new objects; its own 700 is less than one request makes."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def start_workers(settings: Settings) -> Worker | None:
    """Listen, and fork so many workers as the settings say; see `supervise` for what it returns, and where.

    Raises:
        ConfigError: Several workers cannot be served.
        StorePluginError: The store cannot be made.
        WorkersFailed: A worker cannot serve.
        OSError: The address cannot be listened on.
    """
    _check_workers(settings)
    sockets = bind_sockets(settings.server.port, settings.server.host)
    return supervise(sockets, settings.server.workers, settings.server.shutdown_grace_seconds)


def _check_workers(settings: Settings) -> None:
    store = store_from_settings(settings)
    scheme = scheme_of(settings.sessions.store)
    if not type(store).shared:
        reason = f"they need a store that processes can share, and {scheme}:// keeps the sessions in one process"
    elif not isinstance(store, EventLog):
        reason = f"they need a store that keeps events too, and {scheme}:// keeps sessions alone"
    elif not hasattr(os, "fork"):
        reason = "this system cannot fork processes"
    else:
        return
    raise ConfigError(f"server.workers: {settings.server.workers} workers cannot be served: {reason}; use 1")


async def serve(server: object, settings: Settings, worker: Worker | None = None) -> None:
    """Serve a server object until SIGTERM or SIGINT, then drain and return; a second signal ends the process.

    Args:
        server: An SDK `MCPServer`, a low-level `Server`, or a FastMCP server.
        settings: The settings.
        worker: What this process is where it is one of several; its supervisor tells it when to stop. `/metrics` and
            `/readyz` answer for the process that gets the request, not for all.

    Raises:
        ConfigError, NotServable, StorePluginError: It cannot be served; see `create_app`.
        OSError: The address cannot be listened on.
    """
    app = app_from_settings(server, settings)
    stop = _stop_on_signals() if worker is None else worker.stop_event()
    sockets = bind_sockets(settings.server.port, settings.server.host) if worker is None else worker.sockets
    async with app.lifespan():
        http = Server(app, xheaders=settings.server.xheaders)
        await http.listen(sockets)
        _settle_memory()
        _log.info("server.started", version=version("mcp-tornado"), pid=os.getpid(), url=_url(settings, sockets[0]))
        if worker is not None:
            worker.tell_serving()
        await stop.wait()
        if worker is not None and worker.orphaned:
            http.stop()  # a new supervisor needs the address
        await _drain(app, http, settings.server.shutdown_grace_seconds)
    _log.info("server.stopped", pid=os.getpid())
    _exit_despite_threads()


def _exit_despite_threads() -> None:
    """End the process soon, even while a plain function that a tool left behind in a thread goes on."""
    last_resort = threading.Timer(_EXIT_SECONDS, os._exit, [0])
    last_resort.daemon = True
    last_resort.start()


def _settle_memory() -> None:
    """Take what was loaded at the start out of the garbage collector's sight: it lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)


async def _drain(app: MCPApplication, http: Server, grace: float) -> None:
    _log.info("server.draining", pid=os.getpid(), grace_seconds=grace)
    # Connections are still accepted: a load balancer needs to see /readyz turn 503.
    await app.drain(grace)
    http.stop()
    await http.close_all_connections()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _url(settings: Settings, listening: socket.socket) -> str:
    host = settings.server.host
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}{settings.server.path}"
