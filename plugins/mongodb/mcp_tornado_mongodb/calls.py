"""Calls of the driver: bounded in time, never cancelled, and failing in one way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import pymongo
from bson.errors import InvalidDocument
from pymongo.errors import OperationFailure, PyMongoError

from mcp_tornado.stores import StoreUnavailable

_T = TypeVar("_T")

_GRACE: Final = 1.0
"""Seconds the driver may take, after its time is up, to say so."""
_ADVICE: Final = {
    13: ": the user needs the role readWrite on the database",
    18: ": check the user, the password and authSource in the URL of the store",
}
"""What to do, by the server's error code: Unauthorized, AuthenticationFailed."""


class Calls:
    """Makes calls of the driver, each in a task of its own.

    Who waits for a call may be cancelled; the call goes on to its end, which is near. Cancelled itself it would cost
    a connection, and while it connects, PyMongo forgets a socket.

    Args:
        hosts: What to call the server in messages.
        limit: Seconds a call may take, unless it says otherwise.
    """

    def __init__(self, hosts: str, limit: float) -> None:
        self.limit = limit
        self._hosts = hosts
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, call: Coroutine[Any, Any, _T], *, limit: float | None = None) -> _T:
        """Await a coroutine that uses the driver.

        Args:
            call: The coroutine.
            limit: Seconds it may take.

        Raises:
            StoreUnavailable: Something failed at the server or on the way to it, or the time was up.
            ValueError: A document is larger than MongoDB takes.
        """
        limit = limit if limit is not None else self.limit
        task = asyncio.create_task(self._bounded(call, limit))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            async with asyncio.timeout(limit + _GRACE):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise StoreUnavailable(_description(self._hosts, error)) from error

    async def finished(self) -> None:
        """Wait for the calls that nobody waits for any more; end what the driver does not end in time."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=self.limit + _GRACE)
            for call in late:
                call.cancel()

    async def _bounded(self, call: Coroutine[Any, Any, _T], limit: float) -> _T:
        try:
            with pymongo.timeout(limit):
                return await call
        except InvalidDocument as error:
            raise ValueError("this is larger than MongoDB takes: a document has 16 MB at most") from error
        except (PyMongoError, OSError) as error:
            raise StoreUnavailable(_description(self._hosts, error)) from error


def _description(hosts: str, error: Exception) -> str:
    """Say what failed, without the driver's own text: that is long, and may hold what was stored."""
    if isinstance(error, OperationFailure):
        name = (error.details or {}).get("codeName", type(error).__name__)
        return f"MongoDB at {hosts} failed with {name} (code {error.code}){_ADVICE.get(error.code or 0, '')}"
    return f"MongoDB at {hosts} does not answer ({type(error).__name__}): is it running, and can it be reached?"
