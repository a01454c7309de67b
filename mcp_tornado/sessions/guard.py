"""The guard around every store operation: a timeout, metrics, and one error for an unavailable store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any, Final, TypeVar, cast

from mcp_tornado.log import get_logger
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions.errors import ErrorCode, SessionError, StoreError, StoreUnavailable
from mcp_tornado.sessions.store import Event, EventLog

_log = get_logger(__name__)
_T = TypeVar("_T")

STORE_TIMEOUT_SECONDS: Final = 5.0
"""Time after which a store operation counts as failed and the store as unavailable."""


class _StartedCall(Awaitable[_T]):
    """A coroutine that has run up to its first suspension.

    An operation of a store in memory is done then, and needs no timer. Any other operation is awaited to its end.
    """

    def __init__(self, call: Coroutine[Any, Any, _T]) -> None:
        self._call = call
        self._waits_for: Any = None
        self._result: _T | None = None
        self.done = False
        try:
            self._waits_for = call.send(None)
        except StopIteration as stop:
            self.done, self._result = True, stop.value

    def result(self) -> _T:
        """Return the result of an operation that is done."""
        return cast(_T, self._result)

    def __await__(self) -> Generator[Any, Any, _T]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = self._call.throw(error)
                else:
                    waits_for = self._call.send(sent)
        except StopIteration as stop:
            return stop.value


class StoreGuard:
    """Runs store operations: measures them, limits their time, and raises one error if the store is unavailable."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._observe: dict[str, Callable[[float], None]] = {}

    async def run(self, operation: str, call: Coroutine[Any, Any, _T], *, timeout: float = STORE_TIMEOUT_SECONDS) -> _T:
        """Await one operation of a store.

        Args:
            operation: The label in the metrics.
            call: The operation.
            timeout: Seconds that the operation may take.

        Raises:
            SessionError: `STORE_UNAVAILABLE`: the store raised `StoreUnavailable`, the network failed, or the
                operation timed out.
            StoreError: Any other error of the contract of stores; it does not count as a failure.
            Exception: Any other exception passes unchanged; it is counted and logged as a failure.
        """
        observe = self._observe.get(operation)
        if observe is None:
            observe = self._observe[operation] = self._metrics.store_duration.labels(operation).observe
        started = time.perf_counter()
        try:
            started_call = _StartedCall(call)
            if started_call.done:
                return started_call.result()
            async with asyncio.timeout(timeout):
                return await started_call
        except (StoreUnavailable, OSError) as error:  # a TimeoutError is an OSError
            self._record_failure(operation, error)
            raise SessionError(ErrorCode.STORE_UNAVAILABLE) from error
        except StoreError:
            raise
        except Exception as error:
            self._record_failure(operation, error)
            raise
        finally:
            observe(time.perf_counter() - started)

    def _record_failure(self, operation: str, error: Exception) -> None:
        self._metrics.store_errors.labels(operation).inc()
        # The message of a StoreUnavailable holds no credentials; the message of a driver's error may.
        reason = str(error) if isinstance(error, StoreUnavailable) else None
        _log.error("store.error", operation=operation, error=type(error).__name__, reason=reason)


class GuardedEventLog(EventLog):
    """An event log whose operations all run through a guard."""

    def __init__(self, log: EventLog, guard: StoreGuard) -> None:
        self._events = log
        self._guard = guard

    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False) -> str:
        """See `EventLog.append`."""
        return await self._guard.run("append", self._events.append(key, stream, message, final=final))

    async def read(self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100) -> list[Event]:
        """See `EventLog.read`."""
        return await self._guard.run("read", self._events.read(key, after, stream=stream, limit=limit))

    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """See `EventLog.wait`."""
        call = self._events.wait(key, after, timeout)
        return await self._guard.run("wait", call, timeout=timeout + STORE_TIMEOUT_SECONDS)

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        return await self._guard.run("claim", self._events.claim(name, owner, ttl_seconds))

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._guard.run("release", self._events.release(name, owner))
