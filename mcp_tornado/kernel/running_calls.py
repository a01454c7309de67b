"""The calls that run in this process, by session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from mcp_tornado import jsonrpc
from mcp_tornado.kernel.calls import Call
from mcp_tornado.sessions import ErrorCode
from mcp_tornado.streams.tasks import BackgroundTasks

_ANSWER_TIMEOUT_SECONDS: Final = 5.0
"""How long `abort_all` waits for the answers to be written. The store may be unavailable then."""


class RunningCalls:
    """The calls of each session that run in this process.

    Args:
        tasks: Keeps the task of each call; a drain waits for it.
    """

    def __init__(self, tasks: BackgroundTasks) -> None:
        self._tasks = tasks
        self._calls: dict[str, list[Call]] = {}

    def __contains__(self, key: str) -> bool:
        """Return whether a call of this session runs here."""
        return key in self._calls

    def keys(self) -> Iterable[str]:
        """Return the keys of the sessions whose calls run here."""
        return self._calls.keys()

    def of(self, key: str) -> Sequence[Call]:
        """Return the calls of a session, the oldest first."""
        return tuple(self._calls.get(key, ()))

    def add(self, key: str, call: Call) -> None:
        """Add a call that is about to start; `track` removes it again."""
        self._calls.setdefault(key, []).append(call)

    def track(self, key: str, call: Call, task: asyncio.Task[None]) -> None:
        """Keep a call and its task until the task has ended and the answer is written."""
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_done, key, call))

    def cancel(self, key: str, digest: str) -> bool:
        """Cancel the call whose request id has this digest (see `jsonrpc.digest`).

        A client may use an id again: the newest call that has no answer yet is cancelled.

        Returns:
            Whether there was such a call.
        """
        calls = reversed(self._calls.get(key, ()))
        return any(call.cancel() for call in calls if jsonrpc.digest(call.request.id) == digest)

    async def abort_all(self, code: ErrorCode) -> None:
        """Cancel every call, and answer it with this error; wait a limited time until the answers are written."""
        calls = [call for calls in self._calls.values() for call in calls]
        for call in calls:
            call.abort(code)
        answers = [asyncio.ensure_future(call.settled()) for call in calls]
        if answers:
            await asyncio.wait(answers, timeout=_ANSWER_TIMEOUT_SECONDS)

    def _on_done(self, key: str, call: Call, _task: asyncio.Task[None]) -> None:
        if call.is_being_answered:
            # A client that resumes the stream now must not find the call gone before its answer is in the log.
            self._tasks.spawn_detached(self._remove_once_answered(key, call))
        else:
            self._remove(key, call)

    async def _remove_once_answered(self, key: str, call: Call) -> None:
        await call.settled()
        self._remove(key, call)

    def _remove(self, key: str, call: Call) -> None:
        calls = self._calls[key]
        calls.remove(call)
        if not calls:
            del self._calls[key]
