"""What processes tell each other, through the store: to one of them, or to all."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from mcp_tornado.cluster.follower import LogFollower
from mcp_tornado.cluster.membership import Membership, mailbox_of
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, SessionError

_log = get_logger(__name__)

BROADCAST_LOG: Final = "@everybody"
"""The log that all processes follow."""
RECEIPT: Final = "receipt"
"""The kind of mail that says that other mail has come."""

_STREAM: Final = "mail"
_AGAIN_SECONDS: Final = 2.0
"""After so long without a receipt mail is sent again: the bounds of a mailbox may have evicted it unread."""

Content = Mapping[str, Any]
Handler = Callable[[Content], Awaitable[bool]]
"""Takes mail of one kind; says whether there was somebody for it here, which a receipt then tells the sender."""


class Mailbox:
    """This process's mail.

    Mail is a JSON object: `id`, `kind`, `from` (the process that sent it), `receipt` (the name of the receipt that is
    wanted, or null) and what the kind needs. Mail of a kind that a process does not know, from a newer version, is
    passed over.

    Args:
        log: The log.
        membership: The processes.
    """

    def __init__(self, log: EventLog, membership: Membership) -> None:
        self._log = log
        self._membership = membership
        self._numbers = itertools.count(1)
        self._handlers: dict[str, Handler] = {}
        self._own_handlers: dict[str, Callable[[Content], None]] = {}
        self._receipts: dict[str, asyncio.Future[None]] = {}
        self._followers: Final = [
            LogFollower(log, key, self._take) for key in (mailbox_of(membership.name), BROADCAST_LOG)
        ]
        self._tasks: set[asyncio.Task[None]] = set()
        self.register(RECEIPT, self._note_receipt)

    def register(self, kind: str, handler: Handler) -> None:
        """Say who takes mail of a kind."""
        self._handlers[kind] = handler

    def register_own(self, kind: str, handler: Callable[[Content], None]) -> None:
        """Say who hears that mail of a kind which we sent to all has come to its place among that of others."""
        self._own_handlers[kind] = handler

    async def start(self) -> None:
        """Take what is sent from now on.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        for follower in self._followers:
            await follower.skip()
            self._spawn(follower.follow())

    async def stop(self) -> None:
        """Take and send nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def rewind(self) -> None:
        """Look again for mail that was missed while this process was taken for dead."""
        for follower in self._followers:
            follower.rewind()

    async def send(self, process: str, kind: str, content: Content, receipt: str | None = None) -> None:
        """Send mail to one process, without caring whether it comes.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if await self._membership.has_mailbox(process):
            await self._post(mailbox_of(process), kind, content, receipt)

    async def deliver(self, process: str, kind: str, content: Content) -> None:
        """Send mail to one process, and see to it in the background that it has it, as long as it lives.

        Returns once the mail is in the store.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if not await self._membership.has_mailbox(process):
            _log.debug("mail.undeliverable", process=process, kind=kind)
            return
        receipt, received = self._expect_receipt()
        try:
            await self._post(mailbox_of(process), kind, content, receipt)
        except BaseException:
            del self._receipts[receipt]
            raise
        self._spawn(self._see_to(process, kind, content, receipt, received))

    async def broadcast(self, kind: str, content: Content) -> bool:
        """Tell all other processes something, if there are any; say whether there are.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        others = await self._membership.others()
        if others:
            await self._post(BROADCAST_LOG, kind, content)
        return bool(others)

    async def ask(self, kind: str, content: Content, timeout: float) -> bool:
        """Ask all other processes for the one that it concerns; say whether one answered within `timeout` seconds.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if not await self._membership.others():
            return False
        receipt, received = self._expect_receipt()
        try:
            await self._post(BROADCAST_LOG, kind, content, receipt)
            async with asyncio.timeout(timeout):
                await received
        except TimeoutError:
            return False
        finally:
            del self._receipts[receipt]
        return True

    def _expect_receipt(self) -> tuple[str, asyncio.Future[None]]:
        """Return the name of a new receipt, and what is done once it has come."""
        receipt = f"{self._membership.name}.{next(self._numbers)}"
        received = self._receipts[receipt] = asyncio.get_running_loop().create_future()
        return receipt, received

    async def _post(self, key: str, kind: str, content: Content, receipt: str | None = None) -> None:
        sender = self._membership.name
        envelope = {"id": f"{sender}.{next(self._numbers)}", "kind": kind, "from": sender, "receipt": receipt}
        await self._log.append(key, _STREAM, {**content, **envelope})

    async def _see_to(
        self, process: str, kind: str, content: Content, receipt: str, received: asyncio.Future[None]
    ) -> None:
        try:
            while True:
                done, _ = await asyncio.wait([received], timeout=_AGAIN_SECONDS)
                if done:
                    return
                try:
                    if await self._membership.is_dead(process):
                        return  # it is in the mailbox, should the process only have been stopped
                    await self.send(process, kind, content, receipt)
                except SessionError:
                    continue  # the store is away: at the next turn
        finally:
            del self._receipts[receipt]

    async def _take(self, content: Content) -> None:
        sender, kind = str(content.get("from")), str(content.get("kind"))
        if sender == self._membership.name:
            if kind in self._own_handlers:
                self._own_handlers[kind](content)
            return
        handler = self._handlers.get(kind)
        if handler is None:
            return
        if await handler(content) and content.get("receipt") is not None:
            await self.send(sender, RECEIPT, {"of": content["receipt"]})

    async def _note_receipt(self, content: Content) -> bool:
        received = self._receipts.get(str(content.get("of")))
        if received is not None and not received.done():
            received.set_result(None)
        return False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
