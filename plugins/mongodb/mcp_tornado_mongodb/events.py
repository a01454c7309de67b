"""The events of sessions and processes, in order and without gaps, on a server that may not have transactions.

The document of a session (or process) contains the newest event of its log, and the number of that event. An append

1. reads this document,
2. copies the newest event into the archive, the collection `events`, unless another append has done so,
3. replaces the newest event and the number, on condition that the number and the log have not changed and the session
   is live.

Only the third step makes the new event visible. So an append is atomic with the end of the session, and numbers have no
gaps. An event is in the archive before the next event is visible, even if a process dies between the steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final
from weakref import WeakValueDictionary

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, PyMongoError

from mcp_tornado.stores import (
    Clock,
    Event,
    EventBounds,
    EventId,
    SessionGone,
    StreamEnded,
    encode_stored,
    from_microseconds,
    is_process_key,
    short_key,
    to_microseconds,
)
from mcp_tornado_mongodb.deployment import Document
from mcp_tornado_mongodb.documents import (
    MICROSECONDS_PER_SECOND,
    filter_archived,
    make_archive_id,
    make_event,
    make_process,
    make_process_times,
    to_event,
)

_PROCESS_RETENTION_SECONDS: Final = 86_400
"""Seconds for which the events of a process are kept after the last one, at least."""
_LOG_BATCH_SIZE: Final = 100
"""Number of logs that one command removes from the archive at most."""
_EVICTIONS_PER_BOUND: Final = 4
"""How often evicted events are removed from the archive while as many are appended as the bounds allow."""


class Events:
    """The logs of events in the collections `sessions` and `events`.

    Args:
        sessions: The collection with the newest events; its reads may return writes that no majority has yet.
        archive: The collection with all other events.
        committed_sessions: The same collection as `sessions`, for readers of events: they must not see a write that a
            failover rolls back.
        committed_archive: The same collection as `archive`, for readers of events.
        clock: The clock of the store.
        bounds: The number, size and age of the events that a log keeps.
        on_appended: Called with the key of each event that was appended.
    """

    def __init__(
        self,
        sessions: AsyncCollection[Document],
        archive: AsyncCollection[Document],
        committed_sessions: AsyncCollection[Document],
        committed_archive: AsyncCollection[Document],
        clock: Clock,
        bounds: EventBounds,
        on_appended: Callable[[str], None],
    ) -> None:
        self._sessions = sessions
        self._archive = archive
        self._committed_sessions = committed_sessions
        self._committed_archive = committed_archive
        self._clock = clock
        self._bounds = bounds
        self._on_appended = on_appended
        self._append_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, final: bool) -> str:
        """See `EventLog.append`."""
        data = encode_stored(message)
        # The lock only avoids retries between tasks of this process; the condition decides between processes.
        lock = self._append_locks.setdefault(key, asyncio.Lock())
        async with lock:
            while True:
                head = await self._sessions.find_one(self._filter_live(key), {"log": 1, "newest": 1})
                if head is not None:
                    log, newest = head["log"], head.get("newest")
                    if newest is not None:
                        await self._archive_newest(log["id"], newest)
                    number = await self._replace_newest(key, log, newest, stream, data, final)
                    if number is not None:
                        self._on_appended(key)
                        return str(EventId.of(number, key, stream))
                elif is_process_key(key):
                    await self._create_process(key)
                else:
                    raise SessionGone(short_key(key))

    async def read(self, key: str, after: str | None, stream: str | None, limit: int) -> list[Event]:
        """See `EventLog.read`."""
        start = EventId.number_after(key, after)
        if start is None or limit <= 0:
            return []
        head = await self._committed_sessions.find_one({"_id": key}, {"log": 1, "newest": 1})
        if head is None or start >= head["log"]["number"]:
            return []
        newest = head["newest"]
        events = await self._read_archived(head["log"]["id"], newest, start, stream, limit)
        if len(events) < limit and stream in (None, newest["stream"]):
            events.append(newest)
        return [to_event(key, event) for event in events]

    async def newest_numbers(self, keys: Collection[str]) -> dict[str, int | None]:
        """Return the number of the newest event of each key: 0 if there was none, `None` if the session is not live."""
        numbers: dict[str, int | None] = {key: 0 if is_process_key(key) else None for key in keys}
        now = self._now()
        async for head in self._committed_sessions.find({"_id": {"$in": list(keys)}}, {"log": 1, "times": 1}):
            if head["times"].get("expires_at", now + 1) > now:
                numbers[head["_id"]] = head["log"]["number"]
        return numbers

    async def remove_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Remove the archived events of these logs, whose documents have been removed.

        A failure is ignored: these events are not visible any more, and the server removes them when they expire.
        """
        archived = [log for log in logs if log["number"]]
        try:
            for start in range(0, len(archived), _LOG_BATCH_SIZE):
                # The newest event may be in the archive too, if an append copied it before the session ended.
                await self._archive.delete_many(
                    {
                        "$or": [
                            filter_archived(log["id"], 0, log["number"] + 1)
                            for log in archived[start : start + _LOG_BATCH_SIZE]
                        ]
                    }
                )
        except PyMongoError:
            return

    def _now(self) -> int:
        return to_microseconds(self._clock())

    def _filter_live(self, key: str) -> Document:
        """Return the filter for the document of a key, if the key accepts events."""
        return {"_id": key} if is_process_key(key) else {"_id": key, "times.expires_at": {"$gt": self._now()}}

    async def _create_process(self, key: str) -> None:
        try:
            await self._sessions.insert_one(make_process(key, self._process_expiry()))
        except DuplicateKeyError:
            return  # another task or process has created it

    def _process_expiry(self) -> int:
        retention = max(_PROCESS_RETENTION_SECONDS, self._bounds.ttl_seconds)
        return self._now() + int(retention * MICROSECONDS_PER_SECOND)

    async def _archive_newest(self, log: str, newest: Mapping[str, Any]) -> None:
        """Copy the newest event into the archive; now and then, remove evicted events from the archive."""
        number = newest["number"]
        expires = from_microseconds(newest["at"] + int(self._bounds.ttl_seconds * MICROSECONDS_PER_SECOND))
        try:
            await self._archive.insert_one({"_id": make_archive_id(log, number), **newest, "expires": expires})
        except DuplicateKeyError:
            return  # the append that has copied it also removes evicted events
        every_events = max(1, self._bounds.max_per_session // _EVICTIONS_PER_BOUND)
        every_bytes = max(1, self._bounds.max_bytes // _EVICTIONS_PER_BOUND)
        size_before, size_after = newest["before"], newest["before"] + newest["size"]
        if number % every_events == 0 or size_before // every_bytes != size_after // every_bytes:
            number_bound, before_bound, at_bound = self._lower_bounds(newest)
            evicted = {
                "$or": [
                    {"number": {"$lt": number_bound}},
                    {"before": {"$lt": before_bound}},
                    {"at": {"$lt": at_bound}},
                ]
            }
            # An explicit $and: in a deletion, nx-27017 evaluates an $or beside other conditions without brackets.
            await self._archive.delete_many({"$and": [filter_archived(log, 0, number), evicted]})

    async def _replace_newest(
        self, key: str, log: Mapping[str, Any], newest: Mapping[str, Any] | None, stream: str, data: bytes, final: bool
    ) -> int | None:
        """Make a new event the newest one and return its number; return `None` if the log has changed meanwhile.

        Raises:
            StreamEnded: The stream has had its final event.
        """
        number = log["number"] + 1
        before = newest["before"] + newest["size"] if newest is not None else 0
        at = max(self._now(), newest["at"] if newest is not None else 0)
        change: Document = {
            "$set": {
                "log": {"id": log["id"], "number": number},
                "newest": make_event(number, stream, data, final, at, before),
            }
        }
        if is_process_key(key):
            change["$set"]["times"] = make_process_times(self._process_expiry())
        if final:
            change["$push"] = {"ended": {"$each": [stream], "$slice": -self._bounds.max_per_session}}
        unchanged = {**self._filter_live(key), "log.id": log["id"], "log.number": log["number"]}
        result = await self._sessions.update_one({**unchanged, "ended": {"$nin": [stream]}}, change)
        if result.matched_count:
            return number
        if await self._sessions.find_one({**unchanged, "ended": stream}, {"_id": 1}):
            raise StreamEnded(stream)
        return None

    async def _read_archived(
        self, log: str, newest: Mapping[str, Any], start: int, stream: str | None, limit: int
    ) -> list[Document]:
        """Return the events within the bounds with numbers above `start`, without the newest event."""
        number_bound, before_bound, at_bound = self._lower_bounds(newest)
        start = max(start, number_bound - 1)
        if start + 1 >= newest["number"]:
            return []
        wanted: Document = {
            **filter_archived(log, start, newest["number"]),
            "before": {"$gte": before_bound},
            "at": {"$gte": at_bound},
        }
        if stream is not None:
            wanted["stream"] = stream
        return await self._committed_archive.find(wanted).sort("_id").limit(limit).to_list(limit)

    def _lower_bounds(self, newest: Mapping[str, Any]) -> tuple[int, int, int]:
        """Return the least `number`, `before` and `at` of the events that are kept in addition to the newest one.

        None of the three decreases from one event to the next, so the events that are kept have no gaps.
        """
        total = newest["before"] + newest["size"]
        return (
            newest["number"] - self._bounds.max_per_session + 1,
            total - self._bounds.max_bytes,
            self._now() - int(self._bounds.ttl_seconds * MICROSECONDS_PER_SECOND),
        )
