"""The heartbeat of a process: a lease in the store that only a live process renews."""

from __future__ import annotations

import time
from typing import Final

from mcp_tornado.sessions import EventLog


def heartbeat_lease_name(process: str) -> str:
    """Return the name of the lease that is a process's heartbeat."""
    return f"alive:{process}"


class Heartbeat:
    """The heartbeat of this process, and the probe of another process's heartbeat.

    Args:
        log: The event log, which keeps the leases.
        process: The name of this process.
        lease_seconds: How long the heartbeat lasts after its last renewal, in seconds.
        probe_seconds: How long a probe may hold the lease of another process, in seconds.
    """

    def __init__(self, log: EventLog, process: str, *, lease_seconds: float, probe_seconds: float) -> None:
        self._log = log
        self._process: Final = process
        self._lease_seconds = lease_seconds
        self._probe_seconds = probe_seconds
        self._renewed_at = 0.0
        """When this process last renewed its heartbeat (monotonic clock); 0 if it never did."""

    async def renew(self) -> float:
        """Renew the heartbeat.

        Returns:
            How long this process had been silent, in seconds. 0.0 at the first renewal, and if nothing was renewed
            because another process is probing and holds the lease for a moment.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        silent_seconds = time.monotonic() - self._renewed_at if self._renewed_at else 0.0
        if not await self._log.claim(heartbeat_lease_name(self._process), self._process, self._lease_seconds):
            return 0.0
        self._renewed_at = time.monotonic()
        return silent_seconds

    async def release(self) -> None:
        """End the heartbeat: other processes need not wait until it expires.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        await self._log.release(heartbeat_lease_name(self._process), self._process)

    async def probe(self, process: str) -> bool:
        """Return whether the heartbeat of another process has expired.

        A probe tries to claim the other heartbeat's lease. If it gets the lease, it gives it back at once.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        if not await self._log.claim(heartbeat_lease_name(process), self._process, self._probe_seconds):
            return False
        await self._log.release(heartbeat_lease_name(process), self._process)
        return True
