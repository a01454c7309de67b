"""Streams whose process has died: nobody waits for an answer that cannot come."""

from __future__ import annotations

from typing import Final

from mcp_tornado import jsonrpc
from mcp_tornado.cluster.membership import Membership
from mcp_tornado.jsonrpc import CALL_LOST, RequestId
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, SessionGone, StreamEnded, short_key
from mcp_tornado.streams.names import BACKGROUND, owner_of, requests_of
from mcp_tornado.streams.reader import OnIdle

_log = get_logger(__name__)

_DIED: Final = {"code": CALL_LOST, "message": "The process that ran this request has ended: ask again"}
_SETTLING_SECONDS: Final = 5.0
"""How long a process that ends a stream may take before another one tries."""


class Orphans:
    """Ends the streams of dead processes.

    Args:
        log: Where the streams are.
        membership: Says which processes live.
    """

    def __init__(self, log: EventLog, membership: Membership) -> None:
        self._log = log
        self._membership = membership

    def of_stream(self, key: str, stream: str) -> OnIdle:
        """Return what ends one stream of a session once its process has died."""

        async def tend(_: str | None) -> bool:
            return await self.end(key, stream)

        return tend

    def of_background(self, key: str) -> OnIdle:
        """Return what ends the streams of a session's calls of `/mcp/send` once their processes have died."""
        return _Background(self, self._log, key)

    async def end(self, key: str, stream: str) -> bool:
        """Answer what a dead process has left unanswered; say whether the stream is at its end."""
        owner = owner_of(stream)
        if owner is None or not await self._membership.is_dead(owner):
            return False
        lease = f"end:{stream}"
        if not await self._log.claim(lease, self._membership.name, _SETTLING_SECONDS):
            return False  # another process is at it
        try:
            unanswered = await self._unanswered(key, stream)
            for index, request_id in enumerate(unanswered, start=1):
                error = jsonrpc.error(request_id, _DIED)
                await self._log.append(key, stream, error, final=index == len(unanswered))
            _log.warning("call.orphaned", session=short_key(key), process=owner)
        except (SessionGone, StreamEnded):
            pass
        finally:
            await self._log.release(lease, self._membership.name)
        return True

    async def _unanswered(self, key: str, stream: str) -> list[RequestId | None]:
        requests = await requests_of(self._log, key, stream)
        if len(requests) < 2:
            return [*requests] or [None]
        answered: set[RequestId] = set()
        after: str | None = None
        while events := await self._log.read(key, after, stream=stream):
            after = events[-1].id
            answered.update(event.message["id"] for event in events if event.message and "method" not in event.message)
        return [request_id for request_id in requests if request_id not in answered]


class _Background:
    """Looks after the calls of `/mcp/send` of one session, for one reader."""

    def __init__(self, orphans: Orphans, log: EventLog, key: str) -> None:
        self._orphans = orphans
        self._log = log
        self._key = key
        self._unfinished: dict[str, None] = {}
        self._searched_to: str | None = None
        self._up_to_date = False
        self._read_to: str | None = None

    async def __call__(self, after: str | None) -> bool:
        if not self._up_to_date or after != self._read_to:
            await self._search()
            self._up_to_date, self._read_to = True, after
        ended = [stream for stream in self._unfinished if await self._orphans.end(self._key, stream)]
        for stream in ended:
            del self._unfinished[stream]
        return bool(ended)

    async def _search(self) -> None:
        """Find the streams that have no end, reading on from where the last search came to."""
        while events := await self._log.read(self._key, self._searched_to):
            self._searched_to = events[-1].id
            for event in events:
                if event.final:
                    self._unfinished.pop(event.stream, None)
                elif event.stream.startswith(BACKGROUND):
                    self._unfinished[event.stream] = None
