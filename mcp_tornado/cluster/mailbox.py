"""Messages between the processes that share a store: from one process to another, or to all.

Each process has a mailbox, which is the log `@<process>` in the store. All processes also follow one broadcast log. To
send a message, a process appends it to one of these logs. The receiver follows the log and calls the handler of the
message's kind. All processes read the broadcast log in the same order.

The bounds of a log may evict a message before the receiver has read it. A sender that must know whether its message was
handled asks for an acknowledgement:

- `deliver` sends the message again every 2 seconds until the receiver acknowledges it or is dead.
- `ask` broadcasts a question and waits until one process acknowledges it.

A message that is sent again has a new id, so a receiver may handle it twice. Handlers must allow for that.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from mcp_tornado.cluster.follower import LogFollower
from mcp_tornado.cluster.membership import Membership, mailbox_key
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, SessionError

_log = get_logger(__name__)

BROADCAST_LOG: Final = "@everybody"
"""The key of the log that all processes follow."""
ACKNOWLEDGEMENT: Final = "receipt"
"""Message kind: acknowledges another message. Its member `of` is the name of the acknowledgement."""

_STREAM: Final = "mail"
_RESEND_SECONDS: Final = 2.0
"""How long `deliver` waits for an acknowledgement before it sends the message again."""

Payload = Mapping[str, Any]
"""The JSON members of a message that depend on its kind. A handler also gets those of the envelope; see `Mailbox`."""
MessageHandler = Callable[[Payload], Awaitable[bool]]
"""Handles a message of one kind. Returns whether the message concerned this process: then it is acknowledged, if the
sender asked for that."""


class Mailbox:
    """Sends the messages of this process, and handles those that it receives.

    A message is a JSON object with the members of its payload and of an envelope: `id`, `kind`, `from` (the process
    that sent it) and `receipt` (the name that the acknowledgement must have; null if the sender asks for none). A
    process ignores messages of a kind that it does not know, which a newer version may send.

    Args:
        log: The event log.
        membership: The processes that share the store.
    """

    def __init__(self, log: EventLog, membership: Membership) -> None:
        self._log = log
        self._membership = membership
        self._numbers = itertools.count(1)
        self._handlers: dict[str, MessageHandler] = {}
        self._own_broadcast_handlers: dict[str, Callable[[Payload], None]] = {}
        self._acknowledgements: dict[str, asyncio.Future[None]] = {}
        """The acknowledgements that this process waits for, by name."""
        self._followers: Final = [
            LogFollower(log, key, self._handle) for key in (mailbox_key(membership.name), BROADCAST_LOG)
        ]
        self._tasks: set[asyncio.Task[None]] = set()
        self.register(ACKNOWLEDGEMENT, self._handle_acknowledgement)

    def register(self, kind: str, handler: MessageHandler) -> None:
        """Register the handler for messages of a kind that other processes send."""
        self._handlers[kind] = handler

    def register_own_broadcast(self, kind: str, handler: Callable[[Payload], None]) -> None:
        """Register a handler that is called when this process reads its own broadcast of a kind in the log.

        All processes read the broadcasts in the same order. When the handler is called, this process has handled all
        earlier broadcasts of other processes, and no later one.
        """
        self._own_broadcast_handlers[kind] = handler

    async def start(self) -> None:
        """Handle the messages that are sent from now on.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        for follower in self._followers:
            await follower.seek_to_end()
            self._spawn(follower.follow())

    async def stop(self) -> None:
        """Stop handling and sending messages."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reread(self) -> None:
        """Read the logs from their beginning again, for messages that this process missed while it seemed dead.

        Messages that were handled already are not handled again.
        """
        for follower in self._followers:
            follower.seek_to_start()

    async def send(self, process: str, kind: str, payload: Payload, acknowledgement: str | None = None) -> None:
        """Send a message to one process, without a guarantee that the process handles it.

        Args:
            process: The receiver. If there is no such process, nothing is sent.
            kind: The kind of the message.
            payload: What the kind needs.
            acknowledgement: The name of the acknowledgement that the receiver is to send; `None` for none.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if await self._membership.has_mailbox(process):
            await self._append(mailbox_key(process), kind, payload, acknowledgement)

    async def deliver(self, process: str, kind: str, payload: Payload) -> None:
        """Send a message to one process, and send it again in the background until the process acknowledges it.

        Returns as soon as the message is in the store. Sending ends when the receiver is dead.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if not await self._membership.has_mailbox(process):
            _log.debug("mail.undeliverable", process=process, kind=kind)
            return
        name, acknowledged = self._expect_acknowledgement()
        try:
            await self._append(mailbox_key(process), kind, payload, name)
        except BaseException:
            del self._acknowledgements[name]
            raise
        self._spawn(self._resend_until_acknowledged(process, kind, payload, name, acknowledged))

    async def broadcast(self, kind: str, payload: Payload) -> bool:
        """Send a message to all other processes. Return whether there are other processes.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        others = await self._membership.others()
        if others:
            await self._append(BROADCAST_LOG, kind, payload)
        return bool(others)

    async def ask(self, kind: str, payload: Payload, timeout: float) -> bool:
        """Send a question to all other processes. Return whether one of them acknowledged it within `timeout` seconds.

        A process acknowledges the question if it concerns that process.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if not await self._membership.others():
            return False
        name, acknowledged = self._expect_acknowledgement()
        try:
            await self._append(BROADCAST_LOG, kind, payload, name)
            async with asyncio.timeout(timeout):
                await acknowledged
        except TimeoutError:
            return False
        finally:
            del self._acknowledgements[name]
        return True

    def _expect_acknowledgement(self) -> tuple[str, asyncio.Future[None]]:
        """Return a new name for an acknowledgement, and a future that is done when it arrives."""
        name = f"{self._membership.name}.{next(self._numbers)}"
        acknowledged = self._acknowledgements[name] = asyncio.get_running_loop().create_future()
        return name, acknowledged

    async def _append(self, key: str, kind: str, payload: Payload, acknowledgement: str | None = None) -> None:
        sender = self._membership.name
        envelope = {"id": f"{sender}.{next(self._numbers)}", "kind": kind, "from": sender, "receipt": acknowledgement}
        await self._log.append(key, _STREAM, {**payload, **envelope})

    async def _resend_until_acknowledged(
        self, process: str, kind: str, payload: Payload, name: str, acknowledged: asyncio.Future[None]
    ) -> None:
        try:
            while True:
                done, _ = await asyncio.wait([acknowledged], timeout=_RESEND_SECONDS)
                if done:
                    return
                try:
                    if await self._membership.is_dead(process):
                        return  # the message stays in the mailbox, in case the process was only stopped
                    await self.send(process, kind, payload, name)
                except SessionError:
                    continue  # the store is unavailable: try again after the next wait
        finally:
            del self._acknowledgements[name]

    async def _handle(self, message: Payload) -> None:
        sender, kind = str(message.get("from")), str(message.get("kind"))
        if sender == self._membership.name:
            if kind in self._own_broadcast_handlers:
                self._own_broadcast_handlers[kind](message)
            return
        handler = self._handlers.get(kind)
        if handler is None:
            return
        if await handler(message) and message.get("receipt") is not None:
            await self.send(sender, ACKNOWLEDGEMENT, {"of": message["receipt"]})

    async def _handle_acknowledgement(self, message: Payload) -> bool:
        acknowledged = self._acknowledgements.get(str(message.get("of")))
        if acknowledged is not None and not acknowledged.done():
            acknowledged.set_result(None)
        return False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
