"""What a running handler belongs to: its session, or none, and the sessions of the application that runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from mcp_tornado.hosting.request import InboundRequest
from mcp_tornado.sessions import ClientInfo, Session, SessionManager


@dataclass(slots=True, eq=False)
class RequestContext:
    """What one message's handler belongs to."""

    manager: SessionManager
    loop: asyncio.AbstractEventLoop
    """The event loop that the handler's message came in on."""
    session: Session | None
    """The session as the handler knows it by now, `None` for a message that stands alone."""
    inbound: InboundRequest | None
    """The HTTP request of a message that stands alone."""
    kept: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """What the server's framework keeps for this message alone, by whose it says that it is: each has the form of
    `Session.server_state`."""

    found: set[str] = field(default_factory=set[str])
    """What outlives messages and was found for this one, by its key: if it ends meanwhile, it is not to come back."""

    def saw(self, session: Session) -> None:
        """Note what a session is now, where it is this one; of two who read at once, the older answer may come last."""
        known = self.session
        if known is not None and known.key == session.key and known.revision <= session.revision:
            self.session = session

    @property
    def principal(self) -> str | None:
        """Who authenticated; `None` where nobody did."""
        return self.session.principal if self.session is not None else None

    def client(self) -> ClientInfo:
        """Return what is known of the client."""
        if self.session is not None:
            return self.session.client
        if self.inbound is None:
            return ClientInfo()
        return ClientInfo(remote_addr=self.inbound.remote_addr, user_agent=dict(self.inbound.headers).get("user-agent"))


_current: Final[ContextVar[RequestContext | None]] = ContextVar("mcp_tornado_request_context", default=None)


def current_context() -> RequestContext | None:
    """Return what the running handler belongs to, `None` outside of any handler.

    Tasks and threads that a handler starts belong to the same, as far as they get a copy of its context.
    """
    return _current.get()


def session_context(manager: SessionManager, session: Session) -> AbstractContextManager[RequestContext]:
    """Surround what handles a message of a session, or what creates the task that does.

    A task gets a copy of the context in which it is created.
    """
    return _entered(RequestContext(manager, asyncio.get_running_loop(), session, None))


def sessionless_context(manager: SessionManager, inbound: InboundRequest) -> AbstractContextManager[RequestContext]:
    """Surround what handles a message that stands alone; see `session_context`."""
    return _entered(RequestContext(manager, asyncio.get_running_loop(), None, inbound))


@contextmanager
def _entered(context: RequestContext) -> Generator[RequestContext]:
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
