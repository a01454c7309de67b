"""What a message does that concerns something another process runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mcp_tornado.kernel import messages
from mcp_tornado.kernel.calls import Spawn
from mcp_tornado.kernel.mail import Content, Mail
from mcp_tornado.kernel.messages import Notification, Reply, RequestId
from mcp_tornado.kernel.outgoing import OutgoingRequests
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import SessionError, short_key

_log = get_logger(__name__)

_MESSAGE: Final = "message"
"""Brings a client's reply, or its progress, to the process that waits for it."""
_CANCEL: Final = "cancel"
"""Cancels a request wherever it runs."""
_ENDED: Final = "session.ended"
"""Says that a session has ended."""

ABORT_SECONDS: Final = 2.0
"""How long other processes may take to say that they have a request that is to be aborted."""

Cancel = Callable[[str, RequestId], bool]
"""Cancels a request of a session in this process, if it runs here; says whether it does."""
Forget = Callable[[str], None]
"""Ends what a session that is gone still has in this process."""


class Routing:
    """Brings replies, progress, cancellations and the ends of sessions to where they matter.

    Args:
        mail: Reaches the other processes.
        outgoing: Who waits for replies in this process.
        cancel: Cancels in this process.
        forget: Forgets in this process.
        spawn: Starts a task that the kernel waits for at its end.
    """

    def __init__(self, mail: Mail, outgoing: OutgoingRequests, cancel: Cancel, forget: Forget, spawn: Spawn) -> None:
        self._spawn = spawn
        self._mail = mail
        self._outgoing = outgoing
        self._cancel = cancel
        self._forget = forget
        mail.on(_MESSAGE, self._take_message)
        mail.on(_CANCEL, self._take_cancel)
        mail.on(_ENDED, self._take_end)

    async def reply(self, key: str, reply: Reply) -> None:
        """Hand a client's reply to who waits for it.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        process = self._outgoing.process_of(reply.id)
        if process is None:
            self._outgoing.resolve(key, reply)
        else:
            await self._mail.deliver(process, _MESSAGE, {"session": key, "message": messages.reply(reply)})

    async def progress(self, key: str, notification: Notification) -> None:
        """Hand a client's progress to who asked for it; some of it may be lost on the way to another process.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        token = (notification.params or {}).get("progressToken")
        process = self._outgoing.process_of(token) if messages.is_request_id(token) else None
        if process is None:
            self._spawn(self._outgoing.report_progress(key, notification))
        else:
            message = messages.notification(notification.method, notification.params)
            await self._mail.send(process, _MESSAGE, {"session": key, "message": message})

    async def cancel(self, key: str, request_id: RequestId) -> None:
        """Cancel a request of a session, wherever it runs.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if not self._cancel(key, request_id):
            await self._mail.broadcast(_CANCEL, {"session": key, "request": request_id})

    async def abort(self, key: str, request_id: RequestId) -> bool:
        """Do the same; say whether the process that runs it has it now.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if self._cancel(key, request_id):
            return True
        return await self._mail.ask(_CANCEL, {"session": key, "request": request_id}, ABORT_SECONDS)

    async def session_ended(self, key: str) -> None:
        """Tell the other processes that a session has ended; those that do not hear it notice when they look."""
        try:
            await self._mail.broadcast(_ENDED, {"session": key})
        except SessionError:
            _log.warning("session.end_untold", session=short_key(key))

    async def _take_message(self, mail: Content) -> bool:
        key, message = str(mail.get("session")), messages.parse(mail.get("message"))
        if isinstance(message, Reply):
            self._outgoing.resolve(key, message)
        elif isinstance(message, Notification):
            self._spawn(self._outgoing.report_progress(key, message))
        return True  # also where nobody waits any more: it has come

    async def _take_cancel(self, mail: Content) -> bool:
        request_id = mail.get("request")
        return messages.is_request_id(request_id) and self._cancel(str(mail.get("session")), request_id)

    async def _take_end(self, mail: Content) -> bool:
        self._forget(str(mail.get("session")))
        return False
