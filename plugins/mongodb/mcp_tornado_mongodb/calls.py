"""Calls of the driver: bounded in time, not cancelled with their caller, with one kind of error."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import pymongo
from bson.errors import InvalidDocument
from pymongo.errors import OperationFailure, PyMongoError

from mcp_tornado.stores import StoreUnavailable

_T = TypeVar("_T")

_GRACE_SECONDS: Final = 1.0
"""Seconds that the driver may take after its timeout to report it."""
_ADVICE: Final = {
    13: ": the user needs the role readWrite on the database",
    18: ": check the user, the password and authSource in the URL of the store",
}
"""What the operator can do, by the error code of the server: Unauthorized, AuthenticationFailed."""


class Calls:
    """Runs calls of the driver, each in a task of its own.

    If the caller is cancelled, the call runs to its end, which is near. If the call itself were cancelled, it would
    lose its connection; and PyMongo leaks a socket if it is cancelled while it connects.

    Args:
        hosts: The name of the server in messages.
        timeout: Seconds that a call may take, unless `run` gets another timeout.
    """

    def __init__(self, hosts: str, timeout: float) -> None:
        self.timeout = timeout
        self._hosts = hosts
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, call: Coroutine[Any, Any, _T], *, timeout: float | None = None) -> _T:
        """Await a coroutine that uses the driver.

        Args:
            call: The coroutine.
            timeout: Seconds that it may take; `None` is the timeout of this object.

        Raises:
            StoreUnavailable: The server or the connection failed, or the time was up.
            ValueError: A document is larger than MongoDB accepts.
        """
        timeout = timeout if timeout is not None else self.timeout
        task = asyncio.create_task(self._run_bounded(call, timeout))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            async with asyncio.timeout(timeout + _GRACE_SECONDS):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise StoreUnavailable(_describe_failure(self._hosts, error)) from error

    async def wait_until_done(self) -> None:
        """Wait for the calls whose callers were cancelled; cancel those that the driver does not end in time."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=self.timeout + _GRACE_SECONDS)
            for call in late:
                call.cancel()

    async def _run_bounded(self, call: Coroutine[Any, Any, _T], timeout: float) -> _T:
        try:
            with pymongo.timeout(timeout):
                return await call
        except InvalidDocument as error:
            raise ValueError("this is larger than MongoDB accepts: a document has 16 MB at most") from error
        except (PyMongoError, OSError) as error:
            raise StoreUnavailable(_describe_failure(self._hosts, error)) from error


def _describe_failure(hosts: str, error: Exception) -> str:
    """Return a message for an error, without the text of the driver, which is long and may quote stored data."""
    if isinstance(error, OperationFailure):
        name = (error.details or {}).get("codeName", type(error).__name__)
        return f"MongoDB at {hosts} failed with {name} (code {error.code}){_ADVICE.get(error.code or 0, '')}"
    return f"MongoDB at {hosts} does not answer ({type(error).__name__}): is it running, and can it be reached?"
