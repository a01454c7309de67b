"""State that a tool keeps: one JSON object, durable, the same in every process.

It is kept in the session of the request, or behind a handle: a string that one tool call hands out and a later
one gets back, for requests that have no session.

    from mcp_tornado import state

    s = state.current()                          # this session's
    await s.update(lambda data: data.update(n=data.get("n", 0) + 1))

    s = await state.create()                     # give s.handle to the client
    s = await state.open(handle)                 # and take it back

A plain function, which runs in a thread, uses `create_sync`, `open_sync`, `read_sync` and `update_sync`.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from functools import partial
from typing import Any, Final, TypeVar

from mcp_tornado.hosting.context import RequestContext, current_context
from mcp_tornado.sessions import ErrorCode, Session, SessionError, StateTooLarge

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
"""Changes the dict it is given in place; what it returns is ignored."""

_T = TypeVar("_T")

_NOT_FOUND: Final = frozenset({ErrorCode.SESSION_NOT_FOUND, ErrorCode.SESSION_EXPIRED, ErrorCode.SESSION_ID_MALFORMED})
_UNKNOWN: Final = "there is no state with this handle: it is unknown or has expired"
_LOOP_CHECK: Final = 1.0
"""Seconds after which a waiting thread looks whether there still is a loop to wait for."""


class NoSession(Exception):
    """There is no session: outside of any request, in a request without one, or it has ended meanwhile."""


class StateNotFound(Exception):
    """No state has this handle: it is unknown or malformed, it has expired, or it is another principal's."""


class State:
    """The state of a session, or the state behind a handle.

    It may be used from any thread, and after the request too. Besides what is named below, methods raise
    `mcp_tornado.sessions.SessionError` where the store does not answer (`STORE_UNAVAILABLE`).
    """

    def __init__(self, context: RequestContext, session: Session, handle: str | None = None) -> None:
        self._context = context
        self._session = session
        self._handle = handle

    @property
    def handle(self) -> str | None:
        """What `state.open` takes; `None` for the state of a session.

        Whoever has it has the state: it is unguessable, and the store keeps only its hash.
        """
        return self._handle

    @property
    def data(self) -> dict[str, Any]:
        """A copy of the state as this object last saw it; changing it changes nothing."""
        return copy.deepcopy(dict(self._session.state))

    async def read(self) -> dict[str, Any]:
        """Return the newest state, a copy as `data` is.

        Raises:
            NoSession: The session has ended.
            StateNotFound: The state behind the handle has expired.
        """
        session = await self._context.manager.find(self._session.key)
        if session is None:
            raise self._gone()
        return self._seen(session)

    async def update(self, fn: Change) -> dict[str, Any]:
        """Change the state by compare-and-set, retried until nobody was faster; return the new state.

        Args:
            fn: Changes the dict it is given in place; what it returns is ignored. It may be called several
                times, each time with the newest state. It runs on the event loop and must be quick. What it
                raises passes through, and nothing is changed.

        Raises:
            StateTooLarge: The new state is larger than `sessions.max_state_bytes`; nothing is changed.
            NoSession: The session has ended.
            StateNotFound: The state behind the handle has expired.
            TypeError, ValueError: The new state is no JSON, or `fn` is a coroutine function.
        """
        try:
            session = await self._context.manager.update_state(self._session.key, partial(_change, fn))
        except SessionError as error:
            if error.code in _NOT_FOUND:
                raise self._gone() from None
            raise
        return self._seen(session)

    def read_sync(self) -> dict[str, Any]:
        """Do what `read` does, from a thread.

        Raises:
            RuntimeError: This is the event loop's own thread, which would wait for itself; or the loop has ended.
        """
        return _wait_for(self._context.loop, self.read)

    def update_sync(self, fn: Change) -> dict[str, Any]:
        """Do what `update` does, from a thread; `fn` runs on the event loop here too.

        Raises:
            RuntimeError: This is the event loop's own thread, which would wait for itself; or the loop has ended.
        """
        return _wait_for(self._context.loop, partial(self.update, fn))

    def _seen(self, session: Session) -> dict[str, Any]:
        # Of two who read at once, the one with the older answer may come last.
        if session.revision >= self._session.revision:
            self._session = session
        self._context.note_session(session)
        return copy.deepcopy(dict(session.state))

    def _gone(self) -> NoSession | StateNotFound:
        return NoSession("the session has ended") if self._handle is None else StateNotFound(_UNKNOWN)


def current() -> State:
    """Return the state of the session that the running request belongs to.

    Its `data` is what this request has last seen: what was stored as it began, or what it has read or stored
    since.

    Raises:
        NoSession: The request has no session, or there is no request.
    """
    context = _current_context()
    if context.session is None:
        raise NoSession("this request has no session: keep its state behind a handle, see state.create")
    return State(context, context.session)


async def create() -> State:
    """Make an empty state behind a new handle, for the client to give back in a later call.

    It lives as long as a session does (`sessions.idle_timeout_seconds` after it was last opened,
    `sessions.lifetime_seconds` at the most), has the same limit of size and counts as one.

    Raises:
        NoSession: No request is being handled.
        SessionError: `SESSION_LIMIT_REACHED`, `SESSION_CREATION_FAILED`, `STORE_UNAVAILABLE`.
    """
    return await _create(_current_context())


async def open(handle: str) -> State:
    """Return the state behind a handle, which lives on from now.

    Args:
        handle: What the client has sent; it may be anything.

    Raises:
        StateNotFound: It is no handle, it is unknown or has expired, or it is another principal's.
        NoSession: No request is being handled.
        SessionError: `STORE_UNAVAILABLE`.
    """
    return await _open(_current_context(), handle)


def create_sync() -> State:
    """Do what `create` does, from a thread.

    Raises:
        RuntimeError: This is the event loop's own thread, which would wait for itself; or the loop has ended.
    """
    context = _current_context()
    return _wait_for(context.loop, partial(_create, context))


def open_sync(handle: str) -> State:
    """Do what `open` does, from a thread.

    Raises:
        RuntimeError: This is the event loop's own thread, which would wait for itself; or the loop has ended.
    """
    context = _current_context()
    return _wait_for(context.loop, partial(_open, context, handle))


def _current_context() -> RequestContext:
    context = current_context()
    if context is None:
        raise NoSession("state is to be had inside a handler, while it handles a request")
    return context


async def _create(context: RequestContext) -> State:
    handle, session = await context.manager.create_handle(client=context.client(), principal=context.principal)
    return State(context, session, handle)


async def _open(context: RequestContext, handle: object) -> State:
    if not isinstance(handle, str):  # a low-level server hands on whatever the client sent
        raise StateNotFound(_UNKNOWN)
    try:
        session = await context.manager.open_handle(handle, principal=context.principal)
    except SessionError as error:
        if error.code in _NOT_FOUND:
            raise StateNotFound(_UNKNOWN) from None
        raise
    return State(context, session, handle)


def _change(fn: Change, data: dict[str, Any]) -> None:
    returned = fn(data)
    if asyncio.iscoroutine(returned):
        returned.close()
        raise TypeError("update takes a plain function: a coroutine function cannot be run between read and write")


def _wait_for(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run something on a loop, from another thread, and return its result."""
    if _is_running_here(loop):
        raise RuntimeError("this would block the event loop for good: here, await the method without _sync")
    coroutine = work()
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise
    while not wait([future], timeout=_LOOP_CHECK).done:
        if loop.is_closed():  # between the loop's last turn and its end
            coroutine.close()
            raise RuntimeError("the event loop was closed meanwhile")
    return future.result()


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
