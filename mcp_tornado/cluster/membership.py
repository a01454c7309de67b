"""Which processes share the store, and which of them are dead.

Each process holds a lease in the store, its heartbeat, and has an entry in the register, a log that all processes read.
A death is found in these steps; the times are the defaults of `MembershipTimes`:

1. Each process renews its heartbeat every 1.5 s. The heartbeat lasts 4 s.
2. Every 2.5 s each process reads the register and probes the other processes: it tries to claim the heartbeat of each.
   If it gets the lease, that heartbeat has expired. It gives the lease back at once and suspects the process.
3. As long as it suspects a process, it probes every 1 s. The process is dead if its heartbeat has stayed expired for
   2.5 s. One probe is not enough: after an outage of the store the heartbeats of all processes have expired, and the
   live ones need time to renew theirs.
4. The process that found the death writes it into the register. All processes remove the mailbox of the dead one 10 s
   later.

A process may seem dead although it was only stopped, was too busy, or had no connection to the store. When it comes
back, it renews its heartbeat, notices how long it was silent, enters itself into the register again, and calls
`on_recovered`. So the register may say that a process has ended although it is alive. `is_dead` therefore probes the
heartbeat again: its caller does what cannot be undone, such as ending a stream.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_tornado.cluster.heartbeat import Heartbeat
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, SessionError, SessionManager

_log = get_logger(__name__)

REGISTER: Final = "@processes"
"""The key of the register: the log in which processes enter themselves and those that have ended. Each event names all
processes that its writer knew. The bounds of the log never evict the newest event, so no process is forgotten."""


@dataclass(frozen=True, slots=True)
class MembershipTimes:
    """The times of heartbeats and of the search for dead processes, in seconds.

    After a process was killed, the others find that it is dead after at most `heartbeat_lease` + `scan_interval` +
    `confirmation` (rounded up to whole probe intervals), plus the time that the store needs. With the defaults the sum
    is 9.5 s without the time of the store. README.md promises 10 s.
    """

    heartbeat_interval: float = 1.5
    """Interval between two renewals of the heartbeat."""
    heartbeat_lease: float = 4.0
    """How long a heartbeat lasts after its last renewal."""
    confirmation: float = 2.5
    """How long a heartbeat must stay expired until its process is dead."""
    probe_interval: float = 1.0
    """Interval between two probes of a process that is suspected, or that a caller asks about."""
    mailbox_retention: float = 10.0
    """How long the mailbox of a process that has ended is kept: the process may only have been stopped."""
    scan_interval: float = 2.5
    """Interval between two scans of all processes while none is suspected."""


DEFAULT_TIMES: Final = MembershipTimes()


def mailbox_key(process: str) -> str:
    """Return the key of the log that is a process's mailbox."""
    return f"@{process}"


class Membership:
    """This process among the processes that share the store.

    Args:
        log: The event log.
        manager: Removes the mailboxes of dead processes.
        times: The intervals and leases.
        on_recovered: Called when this process was silent for longer than its heartbeat lasts, so that other processes
            may have taken it for dead. The argument is whether they may have removed its mailbox.
    """

    def __init__(
        self, log: EventLog, manager: SessionManager, times: MembershipTimes, on_recovered: Callable[[bool], None]
    ) -> None:
        self.name: Final = f"s{secrets.token_hex(5)}"
        """The name of this process. No other process has it, not even one that has ended; it never looks like a
        number."""
        self.times: Final = times
        self._log = log
        self._manager = manager
        self._on_recovered = on_recovered
        self._last_read_id: str | None = None
        """The newest event of the register that this process has read."""
        self._others: set[str] = set()
        self._departed: set[str] = set()
        """The processes that have ended, as far as the register says so."""
        self._mailbox_removal_times: dict[str, float] = {}
        """When to remove the mailbox of a departed process (monotonic clock); no entry once it is removed."""
        self._newest_entry: Mapping[str, Any] = {}
        self._probes: dict[str, _Probe] = {}
        """The last probe of each process."""
        self._heartbeat = Heartbeat(
            log, self.name, lease_seconds=times.heartbeat_lease, probe_seconds=times.probe_interval
        )

    # ------------------------------------------------------------------ this process

    async def join(self) -> None:
        """Enter this process into the register, and learn which other processes there are.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._renew_heartbeat()
        await self.others()
        await self._register()

    async def leave(self) -> None:
        """Write into the register that this process ends, and remove its mailbox and its heartbeat."""
        try:
            await self._log.append(REGISTER, self.name, self._entry(gone=True))
            await self._manager.drop_mailbox(mailbox_key(self.name))
            await self._heartbeat.release()
        except Exception as error:  # no error of a store may keep the process from ending
            hint = "the store is unavailable; other processes will find this process dead and remove its mailbox"
            _log.warning("process.left_silently", error=type(error).__name__, hint=hint)

    async def run(self) -> None:
        """Renew the heartbeat, search for dead processes and remove their mailboxes, until cancelled."""
        # Two tasks: a scan that takes long must not delay the heartbeat.
        await asyncio.gather(self._renew_heartbeat_regularly(), self._scan_regularly())

    async def _renew_heartbeat_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.times.heartbeat_interval)
            try:
                # A store operation that hangs must not delay the next renewal.
                async with asyncio.timeout(self.times.heartbeat_interval):
                    await self._renew_heartbeat()
            except (SessionError, TimeoutError):
                self._last_read_id = None  # the store may have lost the register
            except Exception:
                _log.exception("heartbeat.failed")

    async def _scan_regularly(self) -> None:
        has_suspects = False
        while True:
            await asyncio.sleep(self.times.probe_interval if has_suspects else self.times.scan_interval)
            try:
                has_suspects = await self._scan()
            except SessionError:
                self._last_read_id = None
            except Exception:
                _log.exception("census.failed")

    async def _renew_heartbeat(self) -> None:
        silent_seconds = await self._heartbeat.renew()
        if silent_seconds > self.times.heartbeat_lease:
            _log.warning(
                "process.was_silent", hint="this process was stopped, was too busy, or had no connection to the store"
            )
            await self._register()
            self._on_recovered(silent_seconds > self.times.heartbeat_lease + self.times.mailbox_retention)

    async def _register(self) -> None:
        await self._log.append(REGISTER, self.name, self._entry(gone=False))

    def _entry(self, *, gone: bool) -> dict[str, object]:
        return {"process": self.name, "gone": gone, "known": sorted(self._others)}

    # ------------------------------------------------------------------ the other processes

    async def others(self) -> set[str]:
        """Return the names of the other processes, without those that have ended according to the register.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        is_gone: dict[str, bool] = {}
        mentioned: set[str] = set()
        # Several callers may read at the same time. `_last_read_id` advances together with the sets below, without an
        # await in between, so that no caller skips an entry that is not in the sets yet.
        last_read_id = self._last_read_id
        while events := await self._log.read(REGISTER, last_read_id):
            for event in events:
                last_read_id = event.id
                entry = event.message or {}
                is_gone[str(entry.get("process"))] = bool(entry.get("gone"))
                mentioned.update(entry.get("known", ()))
                self._newest_entry = entry
        self._last_read_id = last_read_id
        self._others |= mentioned - self._departed - is_gone.keys()
        for process, gone in is_gone.items():
            if gone:
                self._mark_departed(process)
            else:
                self._departed.discard(process)
                self._mailbox_removal_times.pop(process, None)
                self._others.add(process)
        self._others.discard(self.name)
        return set(self._others)

    async def has_mailbox(self, process: str) -> bool:
        """Return whether a process has a mailbox: it is in the register, or has ended a moment ago.

        A client can make up the name of a process; for such a name there is no mailbox.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        return process in self._others or process in self._mailbox_removal_times or process in await self.others()

    async def is_dead(self, process: str) -> bool:
        """Return whether another process has ended. A process that was killed is found dead after some seconds.

        The store is asked at most once per probe interval, except for a process that seems dead.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if process == self.name:
            return False
        now = time.monotonic()
        last = self._probes.get(process)
        is_recent = last is not None and now - last.at < self.times.probe_interval
        if process in self._departed or (last is not None and is_recent and last.is_dead):
            # The process may only have been stopped and be back. The caller's next step cannot be undone: probe again.
            return await self._heartbeat.probe(process)
        if is_recent:
            return False
        suspected_since = None
        if await self._heartbeat.probe(process):
            is_still_suspected = (
                last is not None and last.suspected_since is not None and now - last.at <= self.times.confirmation
            )
            suspected_since = last.suspected_since if last is not None and is_still_suspected else now
        is_dead = suspected_since is not None and now - suspected_since >= self.times.confirmation
        self._probes[process] = _Probe(now, suspected_since, is_dead)
        return is_dead

    def _mark_departed(self, process: str) -> None:
        self._others.discard(process)
        if process not in self._departed:
            self._departed.add(process)
            self._mailbox_removal_times[process] = time.monotonic() + self.times.mailbox_retention

    def _newest_entry_names_all(self) -> bool:
        entry = self._newest_entry
        named = {*entry.get("known", ()), *(() if entry.get("gone") else (entry.get("process"),))}
        return named >= {self.name, *self._others}

    async def _scan(self) -> bool:
        """Probe all other processes and remove what dead ones have left. Return whether a process is suspected."""
        # From the beginning: if the store has lost the register, the numbers of its events start again.
        self._last_read_id = None
        for process in await self.others():
            if await self.is_dead(process):
                _log.warning("process.died", process=process)
                self._mark_departed(process)
                entry = {"process": process, "gone": True, "known": sorted({self.name, *self._others})}
                await self._log.append(REGISTER, process, entry)
        for process, removal_time in list(self._mailbox_removal_times.items()):
            if time.monotonic() >= removal_time:
                await self._manager.drop_mailbox(mailbox_key(process))
                self._mailbox_removal_times.pop(process, None)
        if not self._newest_entry_names_all():
            await self._register()
        oldest = time.monotonic() - self.times.scan_interval
        self._probes = {process: probe for process, probe in self._probes.items() if probe.at > oldest}
        return any(process in self._others and probe.suspected_since for process, probe in self._probes.items())


@dataclass(frozen=True, slots=True)
class _Probe:
    """The result of a probe; times are those of the monotonic clock."""

    at: float
    suspected_since: float | None
    """Since when the heartbeat was expired at every probe; `None` if it is not expired."""
    is_dead: bool
