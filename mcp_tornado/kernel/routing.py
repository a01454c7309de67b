"""Routing a client's message to the process that it concerns.

A reply, a progress notification, a cancellation or the end of a session may arrive at any process. If it concerns a
call that another process runs, this module sends it there through the mailboxes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from mcp_tornado import jsonrpc
from mcp_tornado.cluster.mailbox import Mailbox, Payload
from mcp_tornado.jsonrpc import Notification, Reply, RequestId
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.sessions import SessionError
from mcp_tornado.streams.append import retry_while_unavailable
from mcp_tornado.streams.tasks import BackgroundTasks

_MESSAGE: Final = "message"
"""Message kind: a client's reply or progress notification, for the process that waits for it."""
_CANCEL: Final = "cancel"
"""Message kind: cancel a request, for the process that runs it."""
_ENDED: Final = "session.ended"
"""Message kind: a session has ended."""
_RENEGOTIATED: Final = "session.renegotiated"
"""Message kind: a client has sent `initialize` again on a live session."""

ABORT_TIMEOUT_SECONDS: Final = 2.0
"""How long `abort` waits for another process to acknowledge that it runs the request."""

Cancel = Callable[[str, str], bool]
"""Cancels the request with this session key and request digest if it runs here; returns whether it does."""


class Routing:
    """Routes replies, progress, cancellations and the ends of sessions to the processes that they concern.

    Args:
        mailbox: Sends messages to the other processes.
        outgoing: The server requests of this process that wait for a reply.
        tasks: Keeps the background tasks.
        cancel: Cancels a request that runs in this process.
        end_session: Ends everything that an ended session (its key) has in this process.
        drop_connection: Drops what the server keeps in this process on the connection of a session (its key).
    """

    def __init__(
        self,
        mailbox: Mailbox,
        outgoing: OutgoingRequests,
        tasks: BackgroundTasks,
        *,
        cancel: Cancel,
        end_session: Callable[[str], None],
        drop_connection: Callable[[str], None],
    ) -> None:
        self._mailbox = mailbox
        self._outgoing = outgoing
        self._tasks = tasks
        self._cancel = cancel
        self._end_session = end_session
        self._drop_connection = drop_connection
        mailbox.register(_MESSAGE, self._on_message)
        mailbox.register(_CANCEL, self._on_cancel)
        mailbox.register(_ENDED, self._on_ended)
        mailbox.register(_RENEGOTIATED, self._on_renegotiated)

    async def reply(self, key: str, reply: Reply) -> None:
        """Give a client's reply to the handler that waits for it, in whichever process that runs.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        process = self._outgoing.process_of(reply.id)
        if process is None:
            self._outgoing.resolve(key, reply)
        else:
            await self._mailbox.deliver(process, _MESSAGE, {"session": key, "message": jsonrpc.reply(reply)})

    async def progress(self, key: str, notification: Notification) -> None:
        """Give a client's progress to the handler that asked for it. On the way to another process it may be lost.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        token = (notification.params or {}).get("progressToken")
        process = self._outgoing.process_of(token) if jsonrpc.is_request_id(token) else None
        if process is None:
            self._tasks.spawn(self._outgoing.report_progress(key, notification))
        else:
            message = jsonrpc.notification(notification.method, notification.params)
            await self._mailbox.send(process, _MESSAGE, {"session": key, "message": message})

    async def cancel(self, key: str, request_id: RequestId) -> None:
        """Cancel a request of a session in whichever process it runs.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        digest = jsonrpc.digest(request_id)
        if not self._cancel(key, digest):
            await self._mailbox.broadcast(_CANCEL, {"session": key, "request": digest})

    async def abort(self, key: str, request_id: RequestId) -> bool:
        """Cancel a request as `cancel` does; return whether the process that runs it has acknowledged that.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        digest = jsonrpc.digest(request_id)
        if self._cancel(key, digest):
            return True
        return await self._mailbox.ask(_CANCEL, {"session": key, "request": digest}, ABORT_TIMEOUT_SECONDS)

    async def session_ended(self, key: str) -> None:
        """Notify the other processes that a session has ended; in the background if the store is unavailable now."""
        broadcast = partial(self._mailbox.broadcast, _ENDED, {"session": key})
        try:
            await broadcast()
        except SessionError:

            async def retry() -> None:
                await retry_while_unavailable(broadcast, None)

            self._tasks.spawn_detached(retry())

    async def session_renegotiated(self, key: str) -> None:
        """Notify the other processes that the client has sent `initialize` again.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._mailbox.broadcast(_RENEGOTIATED, {"session": key})

    async def _on_message(self, payload: Payload) -> bool:
        key, message = str(payload.get("session")), jsonrpc.parse(payload.get("message"))
        if isinstance(message, Reply):
            self._outgoing.resolve(key, message)
        elif isinstance(message, Notification):
            self._tasks.spawn(self._outgoing.report_progress(key, message))
        return True  # acknowledge it even if no handler waits any more: this is the right process

    async def _on_cancel(self, payload: Payload) -> bool:
        return self._cancel(str(payload.get("session")), str(payload.get("request")))

    async def _on_ended(self, payload: Payload) -> bool:
        self._end_session(str(payload.get("session")))
        return False

    async def _on_renegotiated(self, payload: Payload) -> bool:
        self._drop_connection(str(payload.get("session")))
        return False
