"""The life of one session, as the model expects it."""

from __future__ import annotations

from typing import Final

from mcp_tornado.sessions.ids import session_key
from tests.kernel.simulated_cluster import SimulatedCluster
from tests.kernel.simulated_process import RULES

_REFRESH_MARGIN_SECONDS: Final = 30.0
"""How much earlier than its idle timeout a session may end that a stream or a call keeps alive. They do not refresh it
all the time."""


class ModelSession:
    """One session: when it must be alive, and when it may have ended.

    Args:
        cluster: The cluster.
        number: The number of the client that has the session.
        session_id: The session's id.
    """

    def __init__(self, cluster: SimulatedCluster, number: int, session_id: str) -> None:
        self._cluster = cluster
        self.number = number
        self.session_id = session_id
        self.key = session_key(session_id)
        self.termination_requested = False
        """Whether the client has asked a process to end the session."""
        self.is_terminated = False
        """Whether a process has confirmed to the client that the session has ended."""
        self.has_ended = False
        """Whether the store was found to have no live session."""
        self._last_used_at = self._last_busy_at = cluster.loop.time()

    def may_have_ended(self) -> bool:
        """Return whether the session may have ended."""
        now, idle_timeout = self._cluster.loop.time(), RULES.idle_timeout
        has_expired = (
            now >= self._last_used_at + idle_timeout
            and now >= self._last_busy_at + idle_timeout - _REFRESH_MARGIN_SECONDS
        )
        return self.has_ended or self.termination_requested or has_expired

    def note_use(self) -> None:
        """Note that a request has refreshed the session now."""
        self._last_used_at = self._cluster.loop.time()

    def note_busy(self) -> None:
        """Note that a call of the session runs now, or that a stream of it is open. They keep the session alive."""
        self._last_busy_at = self._cluster.loop.time()

    async def check(self) -> None:
        """Report a fault if the session has ended too early, has come back, or has left data in the store."""
        store = self._cluster.store
        record = await store.get(self.key)
        is_alive = record is not None and record.expires_at > self._cluster.loop.clock()
        if is_alive and self.has_ended:
            self._report("has come back after its end")
        if not is_alive and not self.may_have_ended():
            self._report("has ended too early")
        self.has_ended = not is_alive
        if self.is_terminated and (record is not None or await store.read(self.key, None)):
            self._report("was terminated, but the store still has its record or its events")

    def _report(self, fault: str) -> None:
        self._cluster.loop.report(f"the session of client {self.number} {fault}")
