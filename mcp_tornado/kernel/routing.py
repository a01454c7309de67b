"""What a message does that concerns something another process runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from mcp_tornado import jsonrpc
from mcp_tornado.cluster.mailbox import Mailbox, Payload
from mcp_tornado.jsonrpc import Notification, Reply, RequestId
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.sessions import SessionError
from mcp_tornado.streams.append import retry_while_unavailable
from mcp_tornado.streams.tasks import Spawn

_MESSAGE: Final = "message"
"""Brings a client's reply, or its progress, to the process that waits for it."""
_CANCEL: Final = "cancel"
"""Cancels a request wherever it runs."""
_ENDED: Final = "session.ended"
"""Says that a session has ended."""
_RENEGOTIATED: Final = "session.renegotiated"
"""Says that a session's client has shaken hands anew."""

ABORT_SECONDS: Final = 2.0
"""How long other processes may take to say that they have a request that is to be aborted."""

Cancel = Callable[[str, str], bool]
"""Cancels a request of a session (its key) in this process, named by its digest; says whether it runs here."""
Forget = Callable[[str], None]
"""Ends what a session (its key) has in this process: all of it, or what the server keeps on its connection."""


class Routing:
    """Brings replies, progress, cancellations and the ends of sessions to where they matter.

    Args:
        mailbox: Sends messages to the other processes.
        outgoing: Who waits for replies in this process.
        cancel: Cancels in this process.
        forget: Ends what a session that is gone has in this process.
        disconnect: Ends what the server keeps on a session's connection in this process.
        spawn: Starts a task that a drain waits for.
        spawn_detached: Starts one that it does not wait for.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        outgoing: OutgoingRequests,
        cancel: Cancel,
        forget: Forget,
        disconnect: Forget,
        spawn: Spawn,
        spawn_detached: Spawn,
    ) -> None:
        self._spawn_detached = spawn_detached
        self._spawn = spawn
        self._mailbox = mailbox
        self._outgoing = outgoing
        self._cancel = cancel
        self._forget = forget
        self._disconnect = disconnect
        mailbox.register(_MESSAGE, self._take_message)
        mailbox.register(_CANCEL, self._take_cancel)
        mailbox.register(_ENDED, self._take_end)
        mailbox.register(_RENEGOTIATED, self._take_renegotiation)

    async def reply(self, key: str, reply: Reply) -> None:
        """Hand a client's reply to who waits for it.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        process = self._outgoing.process_of(reply.id)
        if process is None:
            self._outgoing.resolve(key, reply)
        else:
            await self._mailbox.deliver(process, _MESSAGE, {"session": key, "message": jsonrpc.reply(reply)})

    async def progress(self, key: str, notification: Notification) -> None:
        """Hand a client's progress to who asked for it; some of it may be lost on the way to another process.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        token = (notification.params or {}).get("progressToken")
        process = self._outgoing.process_of(token) if jsonrpc.is_request_id(token) else None
        if process is None:
            self._spawn(self._outgoing.report_progress(key, notification))
        else:
            message = jsonrpc.notification(notification.method, notification.params)
            await self._mailbox.send(process, _MESSAGE, {"session": key, "message": message})

    async def cancel(self, key: str, request_id: RequestId) -> None:
        """Cancel a request of a session, wherever it runs.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        digest = jsonrpc.digest(request_id)
        if not self._cancel(key, digest):
            await self._mailbox.broadcast(_CANCEL, {"session": key, "request": digest})

    async def abort(self, key: str, request_id: RequestId) -> bool:
        """Do the same; say whether the process that runs it has it now.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        digest = jsonrpc.digest(request_id)
        if self._cancel(key, digest):
            return True
        return await self._mailbox.ask(_CANCEL, {"session": key, "request": digest}, ABORT_SECONDS)

    async def session_ended(self, key: str) -> None:
        """Tell the other processes that a session has ended: in the background, where the store is away by now."""
        tell = partial(self._mailbox.broadcast, _ENDED, {"session": key})
        try:
            await tell()
        except SessionError:
            self._spawn_detached(self._tell_later(tell))

    async def _tell_later(self, tell: Callable[[], Awaitable[object]]) -> None:
        await retry_while_unavailable(tell, None)

    async def session_renegotiated(self, key: str) -> None:
        """Tell the other processes that a session's client has shaken hands anew.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._mailbox.broadcast(_RENEGOTIATED, {"session": key})

    async def _take_message(self, content: Payload) -> bool:
        key, message = str(content.get("session")), jsonrpc.parse(content.get("message"))
        if isinstance(message, Reply):
            self._outgoing.resolve(key, message)
        elif isinstance(message, Notification):
            self._spawn(self._outgoing.report_progress(key, message))
        return True  # also where nobody waits any more: it has come

    async def _take_cancel(self, content: Payload) -> bool:
        return self._cancel(str(content.get("session")), str(content.get("request")))

    async def _take_end(self, content: Payload) -> bool:
        self._forget(str(content.get("session")))
        return False

    async def _take_renegotiation(self, content: Payload) -> bool:
        self._disconnect(str(content.get("session")))
        return False
