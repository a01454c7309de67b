"""Whether this process accepts new work."""

from __future__ import annotations

from mcp_tornado.sessions import ErrorCode, SessionError


class Admission:
    """Accepts new work until the drain begins."""

    def __init__(self) -> None:
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether this process refuses new work."""
        return self._draining

    def close(self) -> None:
        """Refuse new work from now on."""
        self._draining = True

    def check(self) -> None:
        """Do nothing while new work is accepted.

        Raises:
            SessionError: `SERVER_DRAINING`: the drain has begun.
        """
        if self._draining:
            raise SessionError(ErrorCode.SERVER_DRAINING)
