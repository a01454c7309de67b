"""The request context: the session, or the HTTP request, that a running handler belongs to."""

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
    """What the handler of one message belongs to."""

    manager: SessionManager
    loop: asyncio.AbstractEventLoop
    """The event loop that received the message."""
    session: Session | None
    """The session, as recent as this request has seen it; `None` for a message without a session."""
    inbound: InboundRequest | None
    """The HTTP request of a message without a session; `None` for a message of a session."""
    transient_state: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """State that the server's framework keeps for this message only, by the owner that the framework names. Each value
    has the form of `Session.server_state`."""
    found_records: set[str] = field(default_factory=set[str])
    """The keys of the named records that this request has found. If such a record ends meanwhile, the request must not
    create it again."""

    def note_session(self, session: Session) -> None:
        """Keep a newer version of the session. Reads can complete out of order: an older version is ignored."""
        known = self.session
        if known is not None and known.key == session.key and known.revision <= session.revision:
            self.session = session

    @property
    def principal(self) -> str | None:
        """The authenticated principal; `None` if the request is not authenticated."""
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
    """Return the context of the running handler; `None` outside of a handler.

    The tasks and threads that a handler starts have the same context if they run in a copy of its `contextvars`.
    """
    return _current.get()


def session_context(manager: SessionManager, session: Session) -> AbstractContextManager[RequestContext]:
    """Enter the context of a message of a session.

    Enter it around the handler, or around the creation of the task that runs the handler: a task copies the context in
    which it is created.
    """
    return _entered(RequestContext(manager, asyncio.get_running_loop(), session, None))


def sessionless_context(manager: SessionManager, inbound: InboundRequest) -> AbstractContextManager[RequestContext]:
    """Enter the context of a message without a session; see `session_context`."""
    return _entered(RequestContext(manager, asyncio.get_running_loop(), None, inbound))


@contextmanager
def _entered(context: RequestContext) -> Generator[RequestContext]:
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
