"""Keep what a handler lets out from ending the process, or from leaving a request without an answer.

Code of the hosted server may let out an exception that is no `Exception`: a `CancelledError` that nobody asked for,
`SystemExit`, `KeyboardInterrupt`, or a base exception of a library. asyncio would end the event loop for `SystemExit`
and `KeyboardInterrupt`, and would treat the others as the end of the task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar, cast

from mcp_tornado.hosting.context import current_context

_T = TypeVar("_T")


class HandlerEscape(Exception):
    """A handler let out an exception that is no `Exception`; `__cause__` is that exception."""


class TaskExit(BaseException):
    """A task that a handler started has let out `SystemExit` or `KeyboardInterrupt`; `__cause__` is that exception.

    It replaces these exceptions, for which asyncio would end the event loop. It is no `Exception` either: whoever waits
    for the task gets it in the same way.
    """


async def contain(handler: Awaitable[_T], is_cancelled: Callable[[], bool]) -> _T:
    """Await a handler, and return its result.

    If the handler has cancelled its own task, that cancellation is dropped.

    Args:
        handler: The handler.
        is_cancelled: Returns whether the handler was asked to end: then a `CancelledError` is raised unchanged.

    Raises:
        HandlerEscape: The handler let out an exception that is no `Exception`. An `Exception` is raised unchanged.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task is not None else 0
    try:
        return await handler
    except Exception:
        raise
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            raise
        if isinstance(error, GeneratorExit) and _current_task() is not task:
            raise  # the interpreter closes the coroutine: no handler has raised this
        raise HandlerEscape(f"the handler let out {type(error).__name__}") from error
    finally:
        if task is not None and task.cancelling() > cancellations and task is _current_task() and not is_cancelled():
            await _drop_cancellation(task, cancellations)


def is_task_cancelled() -> bool:
    """Return whether the running task was asked to end: an `is_cancelled` for tasks that nobody waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _drop_cancellation(task: asyncio.Task[Any], cancellations: int) -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # raises the cancellation if it was not raised yet
    while task.cancelling() > cancellations:
        task.uncancel()


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs
        return None


@contextmanager
def contained_tasks() -> Generator[None]:
    """Keep the tasks that handlers start from ending the event loop: see `TaskExit`.

    Other tasks of the event loop are not changed. On exit the loop's task factory is restored.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def create(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        if current_context() is not None and isinstance(coro, Coroutine):
            coro = _ContainedCoroutine(cast("Coroutine[Any, Any, Any]", coro))
        return before(loop, coro, **options) if before is not None else asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(create)
    try:
        yield
    finally:
        if loop.get_task_factory() is create:
            loop.set_task_factory(before)


class _ContainedCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine that raises `TaskExit` instead of `SystemExit` and `KeyboardInterrupt`.

    It is no `async def`, which would leave the inner coroutine unawaited if the task is cancelled before it starts.
    """

    def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
        self._coro = coro

    def send(self, value: Any, /) -> Any:
        """See `Coroutine.send`."""
        try:
            return self._coro.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _task_exit(error) from error

    def throw(self, typ: Any, val: Any = None, tb: TracebackType | None = None, /) -> Any:
        """See `Coroutine.throw`."""
        try:
            return self._coro.throw(typ) if val is None and tb is None else self._coro.throw(typ, val, tb)
        except (SystemExit, KeyboardInterrupt) as error:
            raise _task_exit(error) from error

    def close(self) -> None:
        """See `Coroutine.close`."""
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        """See `Coroutine.__await__`."""
        return self._coro.__await__()

    def __getattr__(self, name: str) -> Any:
        # asyncio and anyio read `cr_frame`, `cr_running` and similar attributes of the coroutine.
        return getattr(self._coro, name)


def _task_exit(error: BaseException) -> TaskExit:
    return TaskExit(f"a task of a handler let out {type(error).__name__}")
