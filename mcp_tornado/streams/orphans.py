"""End the streams of processes that have died: a client must not wait for an answer that cannot come.

The name of a stream names the process that writes it. While a reader in another process has nothing to read, it checks
that process about once a second. If the process is dead, the reader's process claims a lease, so that one process alone
ends the stream, and appends an error for each request without an answer. The last error is the final event.
"""

from __future__ import annotations

from typing import Final

from mcp_tornado import jsonrpc
from mcp_tornado.cluster.membership import Membership
from mcp_tornado.jsonrpc import CALL_LOST, RequestId
from mcp_tornado.log import get_logger
from mcp_tornado.sessions import EventLog, SessionGone, StreamEnded, short_key
from mcp_tornado.streams.names import BACKGROUND, owner_of, read_request_ids
from mcp_tornado.streams.reader import OnIdle

_log = get_logger(__name__)

_PROCESS_DIED: Final = {
    "code": CALL_LOST,
    "message": "The process that ran this request has ended: send the request again",
}
_LEASE_SECONDS: Final = 5.0
"""How long a process may take to end a stream before another process tries."""


class Orphans:
    """Ends the streams of dead processes.

    Args:
        log: The event log.
        membership: Knows which processes are dead.
    """

    def __init__(self, log: EventLog, membership: Membership) -> None:
        self._log = log
        self._membership = membership

    def make_stream_check(self, key: str, stream: str) -> OnIdle:
        """Return the check for a reader of one stream of a session: it ends the stream if its process has died."""

        async def check(_: str | None) -> bool:
            return await self.end_if_orphaned(key, stream)

        return check

    def make_background_calls_check(self, key: str) -> OnIdle:
        """Return the check for a reader of a session's calls of `/mcp/send`: it ends those whose process has died."""
        return _BackgroundCallsCheck(self, self._log, key)

    async def end_if_orphaned(self, key: str, stream: str) -> bool:
        """End a stream if its process has died, with an error for each request that has no answer.

        Returns:
            `True` if the stream, or its session, has ended. `False` if the process of the stream is alive, or if
            another process is ending the stream now.

        Raises:
            SessionError: `STORE_UNAVAILABLE`.
        """
        owner = owner_of(stream)
        if owner is None or not await self._membership.is_dead(owner):
            return False
        lease = f"end:{stream}"
        if not await self._log.claim(lease, self._membership.name, _LEASE_SECONDS):
            return False  # another process is ending the stream
        try:
            unanswered = await self._read_unanswered(key, stream)
            for index, request_id in enumerate(unanswered, start=1):
                error = jsonrpc.error(request_id, _PROCESS_DIED)
                await self._log.append(key, stream, error, final=index == len(unanswered))
            _log.warning("call.orphaned", session=short_key(key), process=owner)
        except (SessionGone, StreamEnded):
            pass
        finally:
            await self._log.release(lease, self._membership.name)
        return True

    async def _read_unanswered(self, key: str, stream: str) -> list[RequestId | None]:
        """Return the ids of the requests that have no answer; `[None]` if the request ids are not known."""
        requests = await read_request_ids(self._log, key, stream)
        if len(requests) < 2:
            return [*requests] or [None]
        answered: set[RequestId] = set()
        after: str | None = None
        while events := await self._log.read(key, after, stream=stream):
            after = events[-1].id
            answered.update(event.message["id"] for event in events if event.message and "method" not in event.message)
        return [request_id for request_id in requests if request_id not in answered]


class _BackgroundCallsCheck:
    """The check of `Orphans.make_background_calls_check`, for one reader.

    Args:
        orphans: Ends the streams.
        log: The event log.
        key: The session's key.
    """

    def __init__(self, orphans: Orphans, log: EventLog, key: str) -> None:
        self._orphans = orphans
        self._log = log
        self._key = key
        self._unfinished: dict[str, None] = {}
        """The streams of calls that have no final event, in the order of their first events."""
        self._searched_to: str | None = None
        self._is_searched = False
        self._reader_position: str | None = None

    async def __call__(self, last_read_id: str | None) -> bool:
        if not self._is_searched or last_read_id != self._reader_position:
            await self._search()
            self._is_searched, self._reader_position = True, last_read_id
        ended = [stream for stream in self._unfinished if await self._orphans.end_if_orphaned(self._key, stream)]
        for stream in ended:
            del self._unfinished[stream]
        return bool(ended)

    async def _search(self) -> None:
        """Find the streams without a final event in the log, from where the last search ended."""
        while events := await self._log.read(self._key, self._searched_to):
            self._searched_to = events[-1].id
            for event in events:
                if event.final:
                    self._unfinished.pop(event.stream, None)
                elif event.stream.startswith(BACKGROUND):
                    self._unfinished[event.stream] = None
