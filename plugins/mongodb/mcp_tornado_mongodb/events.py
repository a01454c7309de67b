"""The events of sessions and processes, in order and without gaps, on a server that may know no transactions.

The newest event of a log stands in the document of its session (or process), beside the count of events. Appending

1. reads that document,
2. copies the newest event into the archive, the collection `events`, where it may be already,
3. replaces the newest event and the count, on condition that the count and the log are still the same and the session
   is live.

The third step alone makes the new event visible. So it is atomic with the end of the session; numbers have no gaps;
and an event is in the archive before the next one can be seen, whichever process dies in between.
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
    SECOND,
    archive_key,
    archived_between,
    event_document,
    new_process,
    process_times,
    to_event,
)

_PROCESS_IS_KEPT: Final = 86_400
"""Seconds after its last event for which a process's events are kept at least."""
_LOGS_AT_ONCE: Final = 100
"""How many logs one command removes from the archive."""
_EVICTIONS: Final = 4
"""How often the archive is rid of evicted events while as many are appended as the bounds allow."""


class Events:
    """The logs of events in the collections `sessions` and `events`.

    Args:
        sessions: The collection with the newest events; what it reads may not be committed by a majority yet.
        archive: The collection with all others.
        committed_sessions: The same as `sessions`, for followers: they must not see what a failover takes back.
        committed_archive: The same as `archive`, for followers.
        clock: The time that is gone by.
        bounds: How much is kept.
        appended: Is told the key of each event that was appended.
    """

    def __init__(
        self,
        sessions: AsyncCollection[Document],
        archive: AsyncCollection[Document],
        committed_sessions: AsyncCollection[Document],
        committed_archive: AsyncCollection[Document],
        clock: Clock,
        bounds: EventBounds,
        appended: Callable[[str], None],
    ) -> None:
        self._sessions = sessions
        self._archive = archive
        self._committed_sessions = committed_sessions
        self._committed_archive = committed_archive
        self._clock = clock
        self._bounds = bounds
        self._appended = appended
        self._appending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, final: bool) -> str:
        """See `EventLog.append`."""
        data = encode_stored(message)
        # Only to spare tasks of this process losing to each other; between processes the condition decides.
        lock = self._appending.setdefault(key, asyncio.Lock())
        async with lock:
            while True:
                head = await self._sessions.find_one(self._live(key), {"log": 1, "newest": 1})
                if head is not None:
                    log, newest = head["log"], head.get("newest")
                    if newest is not None:
                        await self._keep(log["id"], newest)
                    number = await self._replace_newest(key, log, newest, stream, data, final)
                    if number is not None:
                        self._appended(key)
                        return str(EventId.of(number, key, stream))
                elif is_process_key(key):
                    await self._begin(key)
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
        events = await self._archived(head["log"]["id"], newest, start, stream, limit)
        if len(events) < limit and stream in (None, newest["stream"]):
            events.append(newest)
        return [to_event(key, event) for event in events]

    async def newest_numbers(self, keys: Collection[str]) -> dict[str, int | None]:
        """Return the number of each key's newest event: 0 where there was none, `None` where no session lives."""
        numbers: dict[str, int | None] = {key: 0 if is_process_key(key) else None for key in keys}
        now = self._now()
        async for head in self._committed_sessions.find({"_id": {"$in": list(keys)}}, {"log": 1, "times": 1}):
            if head["times"].get("expires_at", now + 1) > now:
                numbers[head["_id"]] = head["log"]["number"]
        return numbers

    async def drop(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Remove what the archive has of these logs, whose documents are gone.

        It does its best: nobody can see those events any more, and the server removes them when their time is up.
        """
        archived = [log for log in logs if log["number"]]
        try:
            for start in range(0, len(archived), _LOGS_AT_ONCE):
                # The newest one may have been archived too, by an append that came too late.
                await self._archive.delete_many(
                    {
                        "$or": [
                            archived_between(log["id"], 0, log["number"] + 1)
                            for log in archived[start : start + _LOGS_AT_ONCE]
                        ]
                    }
                )
        except PyMongoError:
            return

    def _now(self) -> int:
        return to_microseconds(self._clock())

    def _live(self, key: str) -> Document:
        """Return the filter for a key that takes events."""
        return {"_id": key} if is_process_key(key) else {"_id": key, "times.expires_at": {"$gt": self._now()}}

    async def _begin(self, key: str) -> None:
        try:
            await self._sessions.insert_one(new_process(key, self._process_expires()))
        except DuplicateKeyError:
            return  # somebody else did

    def _process_expires(self) -> int:
        return self._now() + int(max(_PROCESS_IS_KEPT, self._bounds.ttl_seconds) * SECOND)

    async def _keep(self, log: str, newest: Mapping[str, Any]) -> None:
        """Copy the newest event into the archive; on the way, rid that of what the bounds have evicted."""
        number = newest["number"]
        expires = from_microseconds(newest["at"] + int(self._bounds.ttl_seconds * SECOND))
        try:
            await self._archive.insert_one({"_id": archive_key(log, number), **newest, "expires": expires})
        except DuplicateKeyError:
            return  # whoever copied it did, or does, the rest
        often = max(1, self._bounds.max_per_session // _EVICTIONS)
        much = max(1, self._bounds.max_bytes // _EVICTIONS)
        if number % often == 0 or newest["before"] // much != (newest["before"] + newest["size"]) // much:
            fewest, smallest, oldest = self._kept_from(newest)
            evicted = {"$or": [{"number": {"$lt": fewest}}, {"before": {"$lt": smallest}}, {"at": {"$lt": oldest}}]}
            # In a deletion, nx-27017 loses the brackets around an $or that stands beside other conditions.
            await self._archive.delete_many({"$and": [archived_between(log, 0, number), evicted]})

    async def _replace_newest(
        self, key: str, log: Mapping[str, Any], newest: Mapping[str, Any] | None, stream: str, data: bytes, final: bool
    ) -> int | None:
        """Make a new event the newest one and return its number; `None` where the log is another one by now.

        Raises:
            StreamEnded: The stream has had its final event.
        """
        number = log["number"] + 1
        before = newest["before"] + newest["size"] if newest is not None else 0
        at = max(self._now(), newest["at"] if newest is not None else 0)
        change: Document = {
            "$set": {
                "log": {"id": log["id"], "number": number},
                "newest": event_document(number, stream, data, final, at, before),
            }
        }
        if is_process_key(key):
            change["$set"]["times"] = process_times(self._process_expires())
        if final:
            change["$push"] = {"ended": {"$each": [stream], "$slice": -self._bounds.max_per_session}}
        same = {**self._live(key), "log.id": log["id"], "log.number": log["number"]}
        result = await self._sessions.update_one({**same, "ended": {"$nin": [stream]}}, change)
        if result.matched_count:
            return number
        if await self._sessions.find_one({**same, "ended": stream}, {"_id": 1}):
            raise StreamEnded(stream)
        return None

    async def _archived(
        self, log: str, newest: Mapping[str, Any], start: int, stream: str | None, limit: int
    ) -> list[Document]:
        """Return what the bounds keep of the events between number `start` and the newest one."""
        fewest, smallest, oldest = self._kept_from(newest)
        start = max(start, fewest - 1)
        if start + 1 >= newest["number"]:
            return []
        wanted: Document = {
            **archived_between(log, start, newest["number"]),
            "before": {"$gte": smallest},
            "at": {"$gte": oldest},
        }
        if stream is not None:
            wanted["stream"] = stream
        return await self._committed_archive.find(wanted).sort("_id").limit(limit).to_list(limit)

    def _kept_from(self, newest: Mapping[str, Any]) -> tuple[int, int, int]:
        """Return the least `number`, `before` and `at` of the events that the bounds keep beside the newest one.

        All three grow from event to event, so what is kept has no gaps.
        """
        total = newest["before"] + newest["size"]
        return (
            newest["number"] - self._bounds.max_per_session + 1,
            total - self._bounds.max_bytes,
            self._now() - int(self._bounds.ttl_seconds * SECOND),
        )
