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

from mcp_tornado.app import MCPApplication, app_from_settings
from mcp_tornado.config import ConfigError, Settings
from mcp_tornado.httpserver import Server
from mcp_tornado.log import get_logger

_log = get_logger(__name__)

_EXIT_SECONDS: Final = 3.0
_GC_THRESHOLD: Final = 10_000
"""Python looks for cycles after so many new objects; its own 700 is less than one request makes."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def check_workers(settings: Settings, *, shared: bool) -> None:
    """Refuse more workers than can be served.

    Args:
        settings: The settings.
        shared: Whether processes can share the store.

    Raises:
        ConfigError: `server.workers` is more than 1.
    """
    if settings.server.workers > 1:
        scheme = settings.sessions.store.partition("://")[0]
        reason = (
            "that is not there yet"
            if shared
            else f"they need a store that processes can share, and {scheme}:// keeps the sessions in one process"
        )
        raise ConfigError(f"server.workers: {settings.server.workers} workers cannot be served: {reason}; use 1")


async def serve(server: object, settings: Settings) -> None:
    """Serve a server object until SIGTERM or SIGINT, then drain and return; a second signal ends the process.

    Raises:
        ConfigError, NotServable, StorePluginError: It cannot be served; see `create_app`.
        OSError: The address cannot be listened on.
    """
    app = app_from_settings(server, settings)
    check_workers(settings, shared=app.shared)
    stop = _stop_on_signals()
    sockets = bind_sockets(settings.server.port, settings.server.host)
    async with app.lifespan():
        http = Server(app, xheaders=settings.server.xheaders)
        await http.listen(sockets)
        _settle_memory()
        _log.info("server.started", version=version("mcp-tornado"), pid=os.getpid(), url=_url(settings, sockets[0]))
        await stop.wait()
        await _drain(app, http, settings.server.shutdown_grace_seconds)
    _log.info("server.stopped")
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
    _log.info("server.draining", grace_seconds=grace)
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
