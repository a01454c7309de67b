"""One reader at a time for the standalone stream of a session, among all processes.

The process that reads a session's standalone stream holds a lease in the store, `get:<session>`. The lease does not
prove that a process reads the stream:

- A process that gets the lease assumes that no other process reads the stream. If that is wrong, two processes read the
  stream for a short time, until one of them stops (see below).
- A process that does not get the lease cannot conclude that the stream is read: the holder may be dead, or may have
  stopped reading a moment ago. The process asks all other processes (`standalone.holder`), and only a process that
  answers within 2 s counts as a reader. If no process answers, or if the asking process gets the lease while it waits,
  the stream is free.

A GET with an event id of the stream takes the stream over from another GET. Its process broadcasts `standalone.taken`,
and each other process that reads the stream stops. If two processes take the stream over at the same time, the process
whose broadcast is later in the broadcast log keeps the stream. All processes read that log in the same order. While a
process has not yet read its own broadcast, it ignores the takeovers of other processes, which are earlier in the log. A
process that reads the stream without the lease because no process has answered broadcasts `standalone.taken` too: the
holder may only have been slow.

A process that loses the stream to a takeover does not release its lease but lets it expire. If the lease were free, a
third process could claim it before the new reader does, and conclude that no process reads the stream.

Each process renews its leases. If it cannot, because another process holds the lease, it asks whether another process
reads the stream, and if so stops reading. Thus only one reader remains if two processes read the stream, for example
because a process was stopped for longer than its lease lasts.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final
from weakref import WeakValueDictionary

from mcp_tornado.cluster.mailbox import Mailbox, Payload
from mcp_tornado.cluster.membership import Membership
from mcp_tornado.sessions import EventLog, SessionError
from mcp_tornado.streams.open_readers import OpenReaders, standalone_conflict
from mcp_tornado.streams.tasks import Spawn

HOLDER: Final = "standalone.holder"
"""Message kind: asks all other processes whether they read a session's standalone stream."""
TAKEN: Final = "standalone.taken"
"""Message kind: from now on the sender reads a session's standalone stream."""
CLOSE: Final = "standalone.close"
"""Message kind: asks the process that reads a session's standalone stream to close the connection."""

_ANSWER_SECONDS: Final = 2.0
"""How long a process may take to answer that it reads a stream."""
_FIRST_CLAIM_SECONDS: Final = 0.2
"""Pause before the second attempt to claim a lease that another process holds. Each further attempt doubles it."""
_MAX_CLAIM_SECONDS: Final = 10.0
"""Longest pause between two attempts to claim a lease that another process holds."""
_LEASE_SECONDS: Final = 90.0
"""How long a lease lasts after its last renewal.

It is renewed at each keepalive interval (`SessionManager.keepalive_interval`, 30 s by default). If that interval is
longer than the lease, because the touch interval is above 90 s, the lease expires before each renewal. Another process
can then get the lease, and both processes read the stream until the next renewal."""


class StandaloneStreams:
    """Makes sure that one GET at a time reads a session's standalone stream, in whatever process.

    Args:
        log: The event log, which keeps the leases.
        membership: The processes that share the store. This process's name owns its leases.
        mailbox: Sends messages to the other processes.
        readers: The readers of this process.
        spawn: Starts a background task, which the kernel cancels when it ends.
    """

    def __init__(
        self, log: EventLog, membership: Membership, mailbox: Mailbox, readers: OpenReaders, spawn: Spawn
    ) -> None:
        self._log = log
        self._owner = membership.name
        self._mailbox = mailbox
        self._readers = readers
        self._spawn = spawn
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._unread_takeovers: Counter[str] = Counter()
        """By session: number of takeovers of this process that it has not read in the broadcast log yet."""
        self._lost_until: dict[str, float] = {}
        """By session whose stream another process took over: when this process's lease expires (monotonic clock)."""
        mailbox.register_own_broadcast(TAKEN, lambda payload: self._note_own_takeover(_session_in(payload)))
        mailbox.register(HOLDER, self._handle_holder)
        mailbox.register(TAKEN, self._handle_taken)
        mailbox.register(CLOSE, self._handle_close)

    async def acquire(self, key: str, *, take_over: bool) -> None:
        """Acquire a session's stream for this process. The reader is in `readers` already.

        Args:
            key: The session's key.
            take_over: Whether to take the stream over from another process that reads it.

        Raises:
            SessionError: `SESSION_CONFLICT`: another process reads the stream, and `take_over` is false;
                `STORE_UNAVAILABLE`.
        """
        async with self._lock_of(key):
            # After another process took the stream over, this process may still hold the lease, although it does not
            # read the stream. So holding the lease does not show that the stream is free.
            was_lost = self._lost_until.pop(key, 0.0) > time.monotonic()
            has_lease = not (was_lost and not take_over) and await self._claim(key)
            if has_lease and not take_over:
                return
            if not take_over and await self._is_read_elsewhere(key, trust_lease=not was_lost):
                raise standalone_conflict()
            await self._announce_takeover(key)
        if not has_lease:
            # The lease becomes free when its holder releases it, or when it expires. Until then this process reads
            # without it, and answers the processes that ask.
            self._spawn(self._claim_when_free(key))

    async def _announce_takeover(self, key: str) -> None:
        # Takeovers of other processes that come before this one in the broadcast log no longer count.
        self._unread_takeovers[key] += 1
        is_sent = False
        try:
            is_sent = await self._mailbox.broadcast(TAKEN, {"session": key})
        finally:
            if not is_sent:
                self._note_own_takeover(key)

    def _note_own_takeover(self, key: str) -> None:
        """Note that a takeover of this process was read in the broadcast log, or was not sent."""
        self._unread_takeovers[key] -= 1
        if self._unread_takeovers[key] <= 0:
            del self._unread_takeovers[key]

    async def close(self, key: str) -> None:
        """Close the connection that reads a session's stream, in whatever process, for the client to reconnect.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if self._readers.reads_standalone(key):
            self._readers.close_standalone(key)
        else:
            await self._mailbox.broadcast(CLOSE, {"session": key})

    async def renew(self, key: str) -> None:
        """Renew the lease of a stream that this process reads. If another process reads it too, stop reading.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        async with self._lock_of(key):
            if not self._readers.reads_standalone(key) or await self._claim(key):
                return
        if await self._mailbox.ask(HOLDER, {"session": key}, _ANSWER_SECONDS):
            self._readers.close_standalone(key, discard_pending=True)

    async def release(self, key: str) -> None:
        """Release a session's stream, unless this process reads it again already."""
        async with self._lock_of(key):
            self._unread_takeovers.pop(key, None)
            if key not in self._lost_until and not self._readers.reads_standalone(key):
                with suppress(SessionError):  # the lease expires
                    await self._log.release(_lease_name(key), self._owner)

    def _lock_of(self, key: str) -> asyncio.Lock:
        """Return the lock that keeps this process from releasing a stream while it acquires it."""
        return self._locks.setdefault(key, asyncio.Lock())

    async def _claim(self, key: str) -> bool:
        return await self._log.claim(_lease_name(key), self._owner, _LEASE_SECONDS)

    async def _claim_when_free(self, key: str) -> None:
        pause = _FIRST_CLAIM_SECONDS
        while self._readers.reads_standalone(key):
            with suppress(SessionError):  # the store is unavailable: try again after the pause
                if await self._claim(key):
                    return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_CLAIM_SECONDS)

    async def _is_read_elsewhere(self, key: str, *, trust_lease: bool) -> bool:
        """Ask the other processes whether one of them reads a stream.

        If `trust_lease`, this process also tries to claim the lease while it waits. If it gets the lease, it assumes
        that no other process reads the stream.
        """
        asking = asyncio.create_task(self._mailbox.ask(HOLDER, {"session": key}, _ANSWER_SECONDS))
        try:
            while True:
                done, _ = await asyncio.wait([asking], timeout=_FIRST_CLAIM_SECONDS)
                if done:
                    return asking.result()
                if trust_lease and await self._claim(key):
                    return False
        finally:
            asking.cancel()

    async def _handle_holder(self, payload: Payload) -> bool:
        return self._readers.reads_standalone(_session_in(payload))

    async def _handle_taken(self, payload: Payload) -> bool:
        key = _session_in(payload)
        if self._readers.reads_standalone(key) and key not in self._unread_takeovers:
            # The lease is not released but left to expire, so that no third process gets it before the new reader.
            now = time.monotonic()
            self._lost_until = {each: end for each, end in self._lost_until.items() if end > now}
            self._lost_until[key] = now + _LEASE_SECONDS
            self._readers.close_standalone(key, discard_pending=True)
        return False

    async def _handle_close(self, payload: Payload) -> bool:
        self._readers.close_standalone(_session_in(payload))
        return False


def _lease_name(key: str) -> str:
    return f"get:{key}"


def _session_in(payload: Payload) -> Any:
    return payload.get("session")
