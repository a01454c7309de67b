"""The processes that share a store: how each says that it lives, and how the others find out that one does not."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, SessionError, SessionManager

_log = get_logger(__name__)

REGISTER: Final = "@processes"
"""The log in which processes say that they are there. Its newest event, which is always kept, names all it knows."""


@dataclass(frozen=True, slots=True)
class MembershipTimes:
    """How often a process says that it lives, in seconds.

    A process that was killed is known to be dead after `lease` + `census` + `confirm` at the latest, and the time that
    the store and the timers take: 9 s as it is here, within the 10 s that are promised.
    """

    heartbeat_interval: float = 1.5
    """How often the heartbeat, which is a lease, is renewed."""
    heartbeat_lease: float = 4.0
    """How long a heartbeat lasts."""
    confirmation: float = 2.5
    """How long after a heartbeat was found to have ended it must be found so again. After an outage of the store all
    have ended, and whoever lives needs this time to renew its own."""
    probe_interval: float = 1.0
    """How often it is looked whether another process lives, while somebody waits for it."""
    mailbox_retention: float = 10.0
    """For how long the mail of a process that seems dead is kept: it may only have been stopped."""
    scan_interval: float = 2.5
    """How often it is looked which processes there are, and what the dead left behind is removed."""


DEFAULT_TIMES: Final = MembershipTimes()


def heartbeat_of(process: str) -> str:
    """Return the name of the lease that is a process's heartbeat."""
    return f"alive:{process}"


def mailbox_of(process: str) -> str:
    """Return the key of a process's mailbox."""
    return f"@{process}"


class Membership:
    """This process among those that share the store.

    Args:
        log: The log.
        manager: Removes the mailboxes of the dead.
        times: The intervals and leases.
        revived: Called when this process has been silent for so long that others may have taken it for dead; it is
            told whether its mail may have been removed.
    """

    def __init__(
        self, log: EventLog, manager: SessionManager, times: MembershipTimes, revived: Callable[[bool], None]
    ) -> None:
        self.name: Final = f"s{secrets.token_hex(5)}"
        """Tells this process from all others, also from those that ended; it never looks like a number."""
        self.times: Final = times
        self._log = log
        self._manager = manager
        self._revived = revived
        self._after: str | None = None
        self._others: set[str] = set()
        self._gone: set[str] = set()
        self._left_behind: dict[str, float] = {}
        """Who is gone and may have a mailbox still, and when that is removed."""
        self._newest_entry: Mapping[str, Any] = {}
        self._looks: dict[str, _Look] = {}
        self._beaten_at = 0.0

    # ------------------------------------------------------------------ this process

    async def join(self) -> None:
        """Say that this process is there, and find out who else is.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._beat()
        await self.others()
        await self._register()

    async def leave(self) -> None:
        """Say that this process ends; its mailbox is removed."""
        try:
            await self._log.append(REGISTER, self.name, self._entry(gone=True))
            await self._manager.drop_mailbox(mailbox_of(self.name))
            await self._log.release(heartbeat_of(self.name), self.name)
        except Exception as error:  # whatever the store raises, the process can end
            hint = "the store is away; what this process had there ends by itself"
            _log.warning("process.left_silently", error=type(error).__name__, hint=hint)

    async def run(self) -> None:
        """Keep the heartbeat up until cancelled, and look after what dead processes left behind."""
        # Apart: however long the census takes, the heart goes on beating.
        await asyncio.gather(self._keep_beating(), self._keep_counting())

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self.times.heartbeat_interval)
            try:
                # In time for the next one: what hangs in the store must not keep us from trying again.
                async with asyncio.timeout(self.times.heartbeat_interval):
                    await self._beat()
            except (SessionError, TimeoutError):
                self._after = None  # the store may have lost what was read
            except Exception:
                _log.exception("heartbeat.failed")

    async def _keep_counting(self) -> None:
        all_clear = True
        while True:
            await asyncio.sleep(self.times.scan_interval if all_clear else self.times.probe_interval)
            try:
                all_clear = await self._take_census()
            except SessionError:
                self._after = None
            except Exception:
                _log.exception("census.failed")

    async def _beat(self) -> None:
        silent_for = time.monotonic() - self._beaten_at if self._beaten_at else 0.0
        if not await self._log.claim(heartbeat_of(self.name), self.name, self.times.heartbeat_lease):
            return  # somebody looks whether we live, for a moment
        self._beaten_at = time.monotonic()
        if silent_for > self.times.heartbeat_lease:
            _log.warning("process.was_silent", hint="it was stopped, too busy, or cut off from the store")
            await self._register()
            self._revived(silent_for > self.times.heartbeat_lease + self.times.mailbox_retention)

    async def _register(self) -> None:
        await self._log.append(REGISTER, self.name, self._entry(gone=False))

    def _entry(self, *, gone: bool) -> dict[str, object]:
        return {"process": self.name, "gone": gone, "known": sorted(self._others)}

    # ------------------------------------------------------------------ the others

    async def others(self) -> set[str]:
        """Return the names of the other processes, as far as they are not known to have ended.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        is_gone: dict[str, bool] = {}
        mentioned: set[str] = set()
        # What was read counts once it is entered below: several may read at the same time.
        after = self._after
        while events := await self._log.read(REGISTER, after):
            for event in events:
                after = event.id
                entry = event.message or {}
                is_gone[str(entry.get("process"))] = bool(entry.get("gone"))
                mentioned.update(entry.get("known", ()))
                self._newest_entry = entry
        self._after = after
        self._others |= mentioned - self._gone - is_gone.keys()
        for process, gone in is_gone.items():
            if gone:
                self._forget(process)
            else:
                self._gone.discard(process)
                self._left_behind.pop(process, None)
                self._others.add(process)
        self._others.discard(self.name)
        return set(self._others)

    async def has_mailbox(self, process: str) -> bool:
        """Say whether there is such a process, or was one until a moment ago: clients can make names up.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        return process in self._others or process in self._left_behind or process in await self.others()

    async def is_dead(self, process: str) -> bool:
        """Say whether another process has ended; a process that was killed is found dead after some seconds.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if process == self.name:
            return False
        now = time.monotonic()
        look = self._looks.get(process)
        if process in self._gone or (look is not None and look.dead and now - look.at < self.times.probe_interval):
            # It may have been stopped only, and be back: what follows cannot be taken back.
            return await self._is_silent(process)
        if look is not None and now - look.at < self.times.probe_interval:
            return False
        silent = await self._is_silent(process)
        since = None
        if silent:
            carries_on = look is not None and look.silent_since is not None and now - look.at <= self.times.confirmation
            since = look.silent_since if look is not None and carries_on else now
        dead = since is not None and now - since >= self.times.confirmation
        self._looks[process] = _Look(now, since, dead)
        return dead

    async def _is_silent(self, process: str) -> bool:
        """Say whether a process's heartbeat has ended."""
        if not await self._log.claim(heartbeat_of(process), self.name, self.times.probe_interval):
            return False
        await self._log.release(heartbeat_of(process), self.name)
        return True

    def _forget(self, process: str) -> None:
        self._others.discard(process)
        if process not in self._gone:
            self._gone.add(process)
            self._left_behind[process] = time.monotonic() + self.times.mailbox_retention

    def _newest_entry_names_all(self) -> bool:
        entry = self._newest_entry
        named = {*entry.get("known", ()), *(() if entry.get("gone") else (entry.get("process"),))}
        return named >= {self.name, *self._others}

    async def _take_census(self) -> bool:
        """Look after the others; say whether none of them is silent."""
        # From the beginning: the store may have lost the register, and numbers begin anew then.
        self._after = None
        for process in await self.others():
            if await self.is_dead(process):
                _log.warning("process.died", process=process)
                self._forget(process)
                entry = {"process": process, "gone": True, "known": sorted({self.name, *self._others})}
                await self._log.append(REGISTER, process, entry)
        for process, due in list(self._left_behind.items()):
            if time.monotonic() >= due:
                await self._manager.drop_mailbox(mailbox_of(process))
                self._left_behind.pop(process, None)
        if not self._newest_entry_names_all():
            await self._register()
        long_ago = time.monotonic() - self.times.scan_interval
        self._looks = {process: look for process, look in self._looks.items() if look.at > long_ago}
        return not any(process in self._others and look.silent_since for process, look in self._looks.items())


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found when it was looked whether a process lives; times are those of the monotonic clock."""

    at: float
    silent_since: float | None
    dead: bool
