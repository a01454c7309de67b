"""What stands between the server and any store: a time limit, the metrics, and one kind of failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions.errors import StoreUnavailable
from mcp_tornado.sessions.model import Session
from mcp_tornado.sessions.store import Event, EventLog, SessionStore

_log = get_logger(__name__)
_T = TypeVar("_T")

_TIME_LIMIT: Final = 5.0
"""Seconds after which a store counts as unavailable."""


class _Guard:
    """Times operations, bounds them, and turns time-outs and network errors into `StoreUnavailable`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._observe: dict[str, Callable[[float], None]] = {}

    async def run(self, operation: str, call: Awaitable[_T], limit: float = _TIME_LIMIT) -> _T:
        observe = self._observe.get(operation)
        if observe is None:
            observe = self._observe[operation] = self._metrics.store_duration.labels(operation).observe
        started = time.perf_counter()
        try:
            async with asyncio.timeout(limit):
                return await call
        except StoreUnavailable as error:
            self._failed(operation, error)
            raise
        except OSError as error:  # a TimeoutError is one too
            self._failed(operation, error)
            raise StoreUnavailable(f"{operation} failed: {type(error).__name__}") from error
        finally:
            observe(time.perf_counter() - started)

    def _failed(self, operation: str, error: Exception) -> None:
        self._metrics.store_errors.labels(operation).inc()
        _log.error("store.error", operation=operation, error=type(error).__name__)


class GuardedStore(SessionStore):
    """A store behind a guard; it keeps the contract of the store behind it."""

    def __init__(self, store: SessionStore, *, metrics: Metrics) -> None:
        self._store = store
        self._guard = _Guard(metrics)

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._store.__aexit__(kind, error, traceback)

    async def create(self, session: Session) -> None:
        """See `SessionStore.create`."""
        await self._guard.run("create", self._store.create(session))

    async def get(self, key: str) -> Session | None:
        """See `SessionStore.get`."""
        return await self._guard.run("get", self._store.get(key))

    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """See `SessionStore.touch`."""
        return await self._guard.run("touch", self._store.touch(key, last_seen_at, expires_at))

    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """See `SessionStore.update`."""
        return await self._guard.run("update", self._store.update(key, changes, expected_revision))

    async def delete(self, key: str) -> bool:
        """See `SessionStore.delete`."""
        return await self._guard.run("delete", self._store.delete(key))

    async def sweep(self, now: datetime, limit: int) -> int:
        """See `SessionStore.sweep`."""
        return await self._guard.run("sweep", self._store.sweep(now, limit), limit=_TIME_LIMIT * 6)

    async def count(self, principal: str | None = None) -> int:
        """See `SessionStore.count`."""
        return await self._guard.run("count", self._store.count(principal))

    async def page(self, after: str | None, limit: int) -> list[Session]:
        """See `SessionStore.page`."""
        return await self._guard.run("page", self._store.page(after, limit))

    async def ping(self) -> None:
        """See `SessionStore.ping`."""
        await self._guard.run("ping", self._store.ping())


class GuardedEventLog(EventLog):
    """An event log behind a guard; it keeps the contract of the log behind it."""

    def __init__(self, log: EventLog, *, metrics: Metrics) -> None:
        self._events = log
        self._guard = _Guard(metrics)

    async def append(
        self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False
    ) -> str:
        """See `EventLog.append`."""
        return await self._guard.run("append", self._events.append(key, stream, message, final=final))

    async def read(
        self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100
    ) -> list[Event]:
        """See `EventLog.read`."""
        return await self._guard.run("read", self._events.read(key, after, stream=stream, limit=limit))

    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """See `EventLog.wait`."""
        return await self._guard.run(
            "wait", self._events.wait(key, after, timeout), limit=timeout + _TIME_LIMIT
        )

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        return await self._guard.run("claim", self._events.claim(name, owner, ttl_seconds))

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._guard.run("release", self._events.release(name, owner))
