"""The Tornado application that serves an MCP server, built from a server object and settings."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from tornado.routing import Rule
from tornado.web import Application, RequestHandler

from mcp_tornado import web
from mcp_tornado.hosting import HostedServer, host
from mcp_tornado.kernel import Kernel
from mcp_tornado.log import get_logger, suppress_handler_errors
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import CleanupService, EventLog, SessionManager, SessionRules, SessionStore, system_clock
from mcp_tornado.sessions.guard import GuardedEventLog, StoreGuard
from mcp_tornado.settings import Settings, settings_from_sections
from mcp_tornado.stores import event_bounds
from mcp_tornado.stores.local_events import WithLocalEvents
from mcp_tornado.stores.plugins import open_store
from mcp_tornado.web import HandlerRule
from mcp_tornado.web.base import BaseHandler
from mcp_tornado.web.guards import HostGuard, OriginGuard

_log = get_logger(__name__)

_SDK_LOGGER: Final = "mcp"
_DRAIN_QUIET_SECONDS: Final = 0.2
"""A drain ends when no request has arrived for this time."""
_DRAIN_WRITE_TIMEOUT_SECONDS: Final = 2.0
"""How long a drain waits until requests stop arriving, and then again until the answers to slow clients are written."""


class MCPApplication(Application):
    """A `tornado.web.Application` that serves one MCP server; `create_app` returns one."""

    def __init__(
        self,
        hosted: HostedServer,
        store: SessionStore,
        events: EventLog,
        settings: Settings,
        handlers: Sequence[HandlerRule] = (),
    ) -> None:
        metrics = Metrics(version("mcp-tornado"))
        sessions = settings.sessions
        self._store = store
        self._manager = SessionManager(
            store,
            SessionRules(
                idle_timeout=sessions.idle_timeout_seconds,
                lifetime=sessions.lifetime_seconds,
                touch_interval=sessions.touch_interval_seconds,
                max_sessions=sessions.max_sessions,
                max_per_principal=sessions.max_per_principal,
                max_state_bytes=sessions.max_state_bytes,
            ),
            clock=system_clock,
            metrics=metrics,
        )
        self._kernel = Kernel(
            hosted,
            self._manager,
            GuardedEventLog(events, StoreGuard(metrics)),
            metrics=metrics,
            stream_after=settings.events.stream_after_seconds,
            json_responses=settings.server.json_responses,
            issue_sessions=sessions.mode != "off",
            request_state_keys=sessions.request_state_keys,
        )
        self._cleanup = CleanupService(self._manager, sessions.cleanup_interval_seconds, metrics=metrics)
        self._active = web.ActiveRequests()
        services = web.Services(
            settings=settings,
            manager=self._manager,
            kernel=self._kernel,
            metrics=metrics,
            hosts=HostGuard(settings.server.allowed_hosts),
            origins=OriginGuard(settings.server.allowed_origins),
            active=self._active,
        )
        self.routes: Sequence[Rule] = [*web.routes(services), *(web.bind_services(rule, services) for rule in handlers)]
        """The routes, for another Application: `existing.add_handlers(".*", app.routes)`."""
        tornado_settings: dict[str, Any] = {
            "default_handler_class": web.UnknownRoute,
            "default_handler_args": {"services": services},
            "log_function": _log_request,
            web.SERVICES_KEY: services,
        }
        super().__init__([*self.routes], **tornado_settings)
        for path in hosted.unserved_routes:
            _log.warning(
                "route.unserved", path=path, hint="mcp-tornado does not serve the custom Starlette routes of a server"
            )

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Open the store, enter the server's lifespan and start the cleanup; undo this in reverse order at the exit.

        Raises:
            StoreUnavailable: The store cannot be reached.
            Exception: The exception that the server's lifespan raises passes unchanged.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(suppress_handler_errors(_SDK_LOGGER))
            await stack.enter_async_context(self._store)
            await stack.enter_async_context(self._kernel.running())
            self._cleanup.start()
            stack.push_async_callback(self._cleanup.stop)
            yield

    @property
    def lifespan_error(self) -> BaseException | None:
        """The exception that the server's own lifespan has raised, inside of `lifespan()`; `None` if there is none."""
        return self._kernel.lifespan_error

    async def drain(self, grace: float) -> None:
        """Refuse new calls and wait until the running ones finish; cancel those that still run after the grace period.

        `/readyz` answers 503 from the start of the drain.

        Args:
            grace: The grace period, in seconds.
        """
        await self._kernel.drain(grace)
        # A client that has just connected gets the answer SERVER_DRAINING instead of a closed connection.
        await self._active.wait_for_pause(_DRAIN_QUIET_SECONDS, _DRAIN_WRITE_TIMEOUT_SECONDS)
        await self._active.wait_until_answered(_DRAIN_WRITE_TIMEOUT_SECONDS)


def create_app(
    server: object, /, *, handlers: Sequence[HandlerRule] = (), **sections: Mapping[str, Any]
) -> MCPApplication:
    """Return a Tornado application that serves an MCP server; read no files and no environment variables.

    Args:
        server: An SDK `MCPServer`, a low-level `Server`, or a FastMCP server.
        handlers: Your own routes, served beside those of mcp-tornado.
        sections: The settings, one dict per section: `sessions={"store": "memory://"}`.

    Raises:
        ConfigError: A setting is unknown, or its value is not allowed.
        NotServable: The server cannot be served.
        StorePluginError: The store cannot be created.
    """
    return create_app_from_settings(server, settings_from_sections(**sections), handlers)


def create_app_from_settings(
    server: object, settings: Settings, handlers: Sequence[HandlerRule] = ()
) -> MCPApplication:
    """Return the application for a server object and settings that are already validated; see `create_app`."""
    hosted = host(server)
    store = create_store_from_settings(settings)
    if isinstance(store, EventLog):
        return MCPApplication(hosted, store, store, settings, handlers)
    _log.warning(
        "events.local",
        store=type(store).__name__,
        hint="this store keeps no events: this process keeps them in memory, and they are lost when it ends",
    )
    local = WithLocalEvents(store, system_clock, event_bounds(_store_options(settings)))
    return MCPApplication(hosted, local, local, settings, handlers)


def create_store_from_settings(settings: Settings) -> SessionStore:
    """Return the store that the settings name, not yet entered; see `open_store`."""
    return open_store(settings.sessions.store, _store_options(settings), system_clock)


def _store_options(settings: Settings) -> dict[str, Any]:
    bounds = settings.events.model_dump(exclude={"stream_after_seconds", "retry_milliseconds"})
    return {**settings.sessions.store_options, "events": bounds}


def _log_request(handler: RequestHandler) -> None:
    """Log a request to a handler of the user; the handlers of mcp-tornado log theirs themselves, in any Application."""
    if not isinstance(handler, BaseHandler):
        _log.info(
            "http.request",
            method=handler.request.method,
            path=handler.request.path,
            status=handler.get_status(),
            seconds=round(handler.request.request_time(), 6),
        )
