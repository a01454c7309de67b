"""State for tools: one JSON object that is kept in the store and is the same in every process.

The state belongs to the session of the request, or to a handle. A handle is a string that one tool call returns to the
client and a later call receives from it: use one for requests that have no session.

    from mcp_tornado import state

    s = state.current()                          # the state of this session
    await s.update(lambda data: data.update(n=data.get("n", 0) + 1))

    s = await state.create()                     # give s.handle to the client
    s = await state.open(handle)                 # open the state with the handle from the client

A tool that is a plain function runs in a thread and uses `create_sync`, `open_sync`, `read_sync` and `update_sync`.

If a tool lets one of the errors of this module through, its client gets a tool error with the text of that error.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from functools import partial
from typing import Any, Final, TypeVar

from mcp_tornado.hosting.context import RequestContext, current_context
from mcp_tornado.hosting.tool_errors import ClientError
from mcp_tornado.sessions import ErrorCode, Session, SessionError, StateTooLarge
from mcp_tornado.sessions.state_handles import create_handle, open_handle

__all__ = [
    "NoSession",
    "State",
    "StateNotFound",
    "StateTooLarge",
    "create",
    "create_sync",
    "current",
    "open",
    "open_sync",
]

Change = Callable[[dict[str, Any]], object]
"""Changes the given dict in place; its return value is ignored."""

_T = TypeVar("_T")

_NOT_FOUND_CODES: Final = frozenset(
    {ErrorCode.SESSION_NOT_FOUND, ErrorCode.SESSION_EXPIRED, ErrorCode.SESSION_ID_MALFORMED}
)
_STATE_NOT_FOUND: Final = "there is no state with this handle: the handle is unknown or has expired"
_LOOP_CHECK_SECONDS: Final = 1.0
"""Interval between two checks of a waiting thread that the event loop still exists."""


class NoSession(ClientError):
    """There is no session: no request is handled, the request has no session, or the session has ended."""


class StateNotFound(ClientError):
    """No state has this handle: it is unknown, malformed or expired, or it belongs to another principal."""


class State:
    """The state of a session, or the state of a handle.

    It can be used from any thread, and after the request has ended. In addition to the errors that each method names,
    methods raise `mcp_tornado.sessions.SessionError` (`STORE_UNAVAILABLE`) if the store does not answer.
    """

    def __init__(self, context: RequestContext, session: Session, handle: str | None = None) -> None:
        self._context = context
        self._session = session
        self._handle = handle

    @property
    def handle(self) -> str | None:
        """The handle for `state.open`; `None` for the state of a session.

        Any client of the same principal that knows the handle can open the state. The handle cannot be guessed, and the
        store keeps only its hash.
        """
        return self._handle

    @property
    def data(self) -> dict[str, Any]:
        """A copy of the state that this object last read or stored; changing the copy changes nothing."""
        return copy.deepcopy(dict(self._session.state))

    async def read(self) -> dict[str, Any]:
        """Read the newest state, and return a copy of it.

        Raises:
            NoSession: The session has ended.
            StateNotFound: The state of the handle has expired.
        """
        session = await self._context.manager.find(self._session.key)
        if session is None:
            raise self._not_found_error()
        return self._keep_newer(session)

    async def update(self, fn: Change) -> dict[str, Any]:
        """Change the state by compare-and-set, and return the new state.

        If another update succeeds first, the change is retried from the newest state.

        Args:
            fn: Changes the given dict in place; its return value is ignored. It may be called several times, each
                time with the newest state. It runs on the event loop and must be quick. If it raises, nothing is
                changed, and the exception reaches the caller.

        Raises:
            StateTooLarge: The new state is larger than `sessions.max_state_bytes`; nothing is changed.
            NoSession: The session has ended.
            StateNotFound: The state of the handle has expired.
            TypeError, ValueError: The new state cannot be written as JSON, or `fn` is a coroutine function.
        """
        try:
            session = await self._context.manager.update_state(self._session.key, partial(_change, fn))
        except SessionError as error:
            if error.code in _NOT_FOUND_CODES:
                raise self._not_found_error() from None
            raise
        return self._keep_newer(session)

    def read_sync(self) -> dict[str, Any]:
        """Do the same as `read`, from a thread.

        Raises:
            RuntimeError: The caller runs in the thread of the event loop, which must not block; or the loop has ended.
        """
        return _wait_for(self._context.loop, self.read)

    def update_sync(self, fn: Change) -> dict[str, Any]:
        """Do the same as `update`, from a thread. `fn` still runs on the event loop.

        Raises:
            RuntimeError: The caller runs in the thread of the event loop, which must not block; or the loop has ended.
        """
        return _wait_for(self._context.loop, partial(self.update, fn))

    def _keep_newer(self, session: Session) -> dict[str, Any]:
        # If two reads run at the same time, the one with the older state may end last.
        if session.revision >= self._session.revision:
            self._session = session
        self._context.note_session(session)
        return copy.deepcopy(dict(session.state))

    def _not_found_error(self) -> NoSession | StateNotFound:
        return NoSession("the session has ended") if self._handle is None else StateNotFound(_STATE_NOT_FOUND)


def current() -> State:
    """Return the state of the session that the running request belongs to.

    Its `data` is the state when the request began, or the state that the request has read or stored since then.

    Raises:
        NoSession: The request has no session, or there is no request.
    """
    context = _current_context()
    if context.session is None:
        raise NoSession("this request has no session: use state.create, and give the handle to the client")
    return State(context, context.session)


async def create() -> State:
    """Create an empty state with a new handle. The client sends the handle back in a later call.

    The state lives as long as a session: for `sessions.idle_timeout_seconds` after it was last opened, and for
    `sessions.lifetime_seconds` at most. It has the same limit of size as the state of a session, and counts as one
    session.

    Raises:
        NoSession: No request is being handled.
        SessionError: `SESSION_LIMIT_REACHED`, `SESSION_CREATION_FAILED`, `STORE_UNAVAILABLE`.
    """
    return await _create(_current_context())


async def open(handle: str) -> State:
    """Return the state of a handle. Its idle timeout starts anew.

    Args:
        handle: The value from the client; it may be any value.

    Raises:
        StateNotFound: The value is no handle, it is unknown or expired, or it belongs to another principal.
        NoSession: No request is being handled.
        SessionError: `STORE_UNAVAILABLE`.
    """
    return await _open(_current_context(), handle)


def create_sync() -> State:
    """Do the same as `create`, from a thread.

    Raises:
        RuntimeError: The caller runs in the thread of the event loop, which must not block; or the loop has ended.
    """
    context = _current_context()
    return _wait_for(context.loop, partial(_create, context))


def open_sync(handle: str) -> State:
    """Do the same as `open`, from a thread.

    Raises:
        RuntimeError: The caller runs in the thread of the event loop, which must not block; or the loop has ended.
    """
    context = _current_context()
    return _wait_for(context.loop, partial(_open, context, handle))


def _current_context() -> RequestContext:
    context = current_context()
    if context is None:
        raise NoSession("no request is being handled: use state inside a handler")
    return context


async def _create(context: RequestContext) -> State:
    handle, session = await create_handle(context.manager, client=context.client(), principal=context.principal)
    return State(context, session, handle)


async def _open(context: RequestContext, handle: object) -> State:
    if not isinstance(handle, str):  # a low-level server passes on any value that the client sent
        raise StateNotFound(_STATE_NOT_FOUND)
    try:
        session = await open_handle(context.manager, handle, principal=context.principal)
    except SessionError as error:
        if error.code in _NOT_FOUND_CODES:
            raise StateNotFound(_STATE_NOT_FOUND) from None
        raise
    return State(context, session, handle)


def _change(fn: Change, data: dict[str, Any]) -> None:
    returned = fn(data)
    if asyncio.iscoroutine(returned):
        returned.close()
        raise TypeError("update takes a plain function: a coroutine function cannot run between the read and the write")


def _wait_for(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine on an event loop, from another thread, and return its result."""
    if _is_running_in_this_thread(loop):
        raise RuntimeError("this call would block the event loop forever: await the method without _sync instead")
    coroutine = work()
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise
    while not wait([future], timeout=_LOOP_CHECK_SECONDS).done:
        if loop.is_closed():  # the loop ended after the call was scheduled, and never ran it
            coroutine.close()
            raise RuntimeError("the event loop was closed before the call was done")
    return future.result()


def _is_running_in_this_thread(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
