"""Who holds the standalone stream of a session, among all processes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final
from weakref import WeakValueDictionary

from mcp_tornado.cluster.mailbox import Content, Mailbox
from mcp_tornado.cluster.membership import Membership
from mcp_tornado.sessions import EventLog, SessionError
from mcp_tornado.streams.readers import StreamReaders, standalone_conflict
from mcp_tornado.streams.tasks import Spawn

HOLDER: Final = "standalone.holder"
"""Asks who reads a session's standalone stream."""
TAKEN: Final = "standalone.taken"
"""Says that another process reads a session's standalone stream from now on."""
CLOSE: Final = "standalone.close"
"""Asks whoever reads a session's standalone stream to close the connection."""

_ANSWER_SECONDS: Final = 2.0
"""How long whoever holds a stream may take to say so."""
_LOOK_SECONDS: Final = (0.2, 10.0)
"""The first and the longest pause until it is tried again to get a lease that another process has."""
_LEASE_SECONDS: Final = 90.0
"""How long a lease lasts; it is renewed with the sessions that are kept alive."""


class StandaloneStreams:
    """Makes sure that one GET at a time reads a session's standalone stream, wherever it is.

    The lease in the store tells quickly that nobody else reads. Where it is taken, its holder may be dead or
    be letting go: then the other processes are asked, and only one that answers counts.

    Args:
        log: Keeps the leases.
        membership: The processes; its name is the owner of this process's leases.
        mailbox: Sends messages to the other processes.
        readers: What is read in this process.
        spawn: Starts a task that the kernel ends at its end.
    """

    def __init__(
        self, log: EventLog, membership: Membership, mailbox: Mailbox, readers: StreamReaders, spawn: Spawn
    ) -> None:
        self._log = log
        self._owner = membership.name
        self._mailbox = mailbox
        self._readers = readers
        self._spawn = spawn
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._taking: Counter[str] = Counter()
        """How often this process has taken a session's stream over without having heard of it itself yet."""
        self._taken: dict[str, float] = {}
        """The sessions whose stream another process has taken over, and until when our lease may last."""
        mailbox.register_own(TAKEN, lambda content: self._has_taken(_session(content)))
        mailbox.register(HOLDER, self._is_held)
        mailbox.register(TAKEN, self._let_go)
        mailbox.register(CLOSE, self._close)

    async def take(self, key: str, *, over: bool) -> None:
        """Take a session's stream, or take it over from whoever holds it; its reader is registered already.

        Raises:
            SessionError: `SESSION_CONFLICT`: somebody holds it and it is not to be taken over; `STORE_UNAVAILABLE`.
        """
        async with self._lock(key):
            # A lease that is ours although another process has taken the stream over tells nothing.
            taken = self._taken.pop(key, 0.0) > time.monotonic()
            has_lease = not (taken and not over) and await self._claim(key)
            if has_lease and not over:
                return
            if not over and await self._somebody_holds(key, lease_tells=not taken):
                raise standalone_conflict()
            await self._tell_taken(key)
        if not has_lease:
            # Until the one before has let go, or its lease has ended: whoever asks is answered all the same.
            self._spawn(self._claim_later(key))

    async def _tell_taken(self, key: str) -> None:
        # What others took before us, and we have not heard of yet, is over.
        self._taking[key] += 1
        told = False
        try:
            told = await self._mailbox.broadcast(TAKEN, {"session": key})
        finally:
            if not told:
                self._has_taken(key)

    def _has_taken(self, key: str) -> None:
        self._taking[key] -= 1
        if self._taking[key] <= 0:
            del self._taking[key]

    async def close(self, key: str) -> None:
        """Close the connection that reads a session's stream, wherever it is, for the client to come back.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if self._readers.holds_standalone(key):
            self._readers.close_standalone(key)
        else:
            await self._mailbox.broadcast(CLOSE, {"session": key})

    async def renew(self, key: str) -> None:
        """Renew the lease of a stream that is read here, if one is; where another process reads it too, stop reading.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        async with self._lock(key):
            if not self._readers.holds_standalone(key) or await self._claim(key):
                return
        if await self._mailbox.ask(HOLDER, {"session": key}, _ANSWER_SECONDS):
            self._readers.close_standalone(key, at_once=True)

    async def give_up(self, key: str) -> None:
        """Give a session's stream up, unless it is read here again already."""
        async with self._lock(key):
            self._taking.pop(key, None)
            if key not in self._taken and not self._readers.holds_standalone(key):
                with suppress(SessionError):  # the lease ends by itself
                    await self._log.release(_lease(key), self._owner)

    def _lock(self, key: str) -> asyncio.Lock:
        """Return what keeps this process from giving up what it takes at the same moment."""
        return self._locks.setdefault(key, asyncio.Lock())

    async def _claim(self, key: str) -> bool:
        return await self._log.claim(_lease(key), self._owner, _LEASE_SECONDS)

    async def _claim_later(self, key: str) -> None:
        pause, longest = _LOOK_SECONDS
        while self._readers.holds_standalone(key):
            with suppress(SessionError):  # the store is away: at the next turn
                if await self._claim(key):
                    return
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _somebody_holds(self, key: str, *, lease_tells: bool) -> bool:
        asking = asyncio.create_task(self._mailbox.ask(HOLDER, {"session": key}, _ANSWER_SECONDS))
        try:
            while True:
                done, _ = await asyncio.wait([asking], timeout=_LOOK_SECONDS[0])
                if done:
                    return asking.result()
                if lease_tells and await self._claim(key):
                    return False
        finally:
            asking.cancel()

    async def _is_held(self, content: Content) -> bool:
        return self._readers.holds_standalone(_session(content))

    async def _let_go(self, content: Content) -> bool:
        key = _session(content)
        if self._readers.holds_standalone(key) and key not in self._taking:
            # The lease is not given up but left to end: nobody who asks for it meanwhile finds it free.
            now = time.monotonic()
            self._taken = {each: end for each, end in self._taken.items() if end > now} | {key: now + _LEASE_SECONDS}
            self._readers.close_standalone(key, at_once=True)
        return False

    async def _close(self, content: Content) -> bool:
        self._readers.close_standalone(_session(content))
        return False


def _lease(key: str) -> str:
    return f"get:{key}"


def _session(content: Content) -> Any:
    return content.get("session")
