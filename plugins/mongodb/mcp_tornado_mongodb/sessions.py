"""Sessions: one document for each, in the collection `sessions`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from mcp_tornado.stores import (
    Clock,
    DuplicateSession,
    Record,
    RevisionConflict,
    Session,
    is_process_key,
    short_key,
    to_microseconds,
)
from mcp_tornado_mongodb.deployment import Document
from mcp_tornado_mongodb.documents import SESSION_FIELDS, make_changed_fields, make_session, make_times, to_record


class Sessions:
    """The sessions in a collection.

    Args:
        collection: The collection.
        clock: The clock of the store.
        on_removed: Called with the fields `_id` and `log` of the documents that were removed.
    """

    def __init__(
        self,
        collection: AsyncCollection[Document],
        clock: Clock,
        on_removed: Callable[[Sequence[Mapping[str, Any]]], Awaitable[None]],
    ) -> None:
        self._sessions = collection
        self._clock = clock
        self._on_removed = on_removed

    async def create(self, session: Session) -> None:
        """See `SessionStore.create`."""
        try:
            await self._sessions.insert_one(make_session(session))
        except DuplicateKeyError:
            raise DuplicateSession(short_key(session.key)) from None

    async def get(self, key: str) -> Session | None:
        """See `SessionStore.get`."""
        document = await self._sessions.find_one({"_id": key}, SESSION_FIELDS)
        if document is None or is_process_key(key):
            return None
        return to_record(document).to_session()

    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """See `SessionStore.touch`."""
        seen, expires = to_microseconds(last_seen_at), to_microseconds(expires_at)
        live_and_not_later = {
            "_id": key,
            "times.last_seen_at": {"$lte": seen},
            "times.expires_at": {"$gt": self._now(), "$lte": expires},
        }
        result = await self._sessions.update_one(live_and_not_later, {"$set": {"times": make_times(seen, expires)}})
        return result.matched_count == 1

    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """See `SessionStore.update`."""
        while True:
            document = await self._sessions.find_one({"_id": key, **self._filter_live()}, SESSION_FIELDS)
            if document is None:
                return None
            record = to_record(document)
            if record.revision != expected_revision:
                raise RevisionConflict(f"expected revision {expected_revision}, found {record.revision}")
            changed = await self._replace(key, record, record.changed(changes))
            if changed is not None:
                return changed.to_session()

    async def delete(self, key: str) -> bool:
        """See `SessionStore.delete`."""
        document = await self._sessions.find_one_and_delete({"_id": key}, projection={"log": 1})
        if document is None:
            return False
        await self._on_removed([document])
        return not is_process_key(key)

    async def sweep(self, now: datetime, limit: int) -> tuple[int, int]:
        """Remove at most `limit` (above 0) sessions that expired by `now`; return how many were found and removed."""
        expired = {"times.expires_at": {"$lte": to_microseconds(now)}}
        found = await self._sessions.find(expired, {"log": 1}).sort("times.expires_at").limit(limit).to_list(limit)
        if not found:
            return 0, 0
        among_them = {"_id": {"$in": [document["_id"] for document in found]}}
        removed = (await self._sessions.delete_many({**among_them, **expired})).deleted_count
        if removed < len(found):
            # The others were touched or removed meanwhile. The sessions that still exist keep their events.
            left = {document["_id"] async for document in self._sessions.find(among_them, {"_id": 1})}
            await self._on_removed([document for document in found if document["_id"] not in left])
        else:
            await self._on_removed(found)
        return len(found), removed

    async def count(self, principal: str | None) -> int:
        """See `SessionStore.count`."""
        of_principal = {"principal": principal} if principal is not None else {}
        return await self._sessions.count_documents({**of_principal, **self._filter_live()})

    async def page(self, after: str | None, limit: int) -> list[Session]:
        """See `SessionStore.page`."""
        if limit <= 0:  # a limit of 0 means no limit to MongoDB
            return []
        after_key = {"_id": {"$gt": after}} if after is not None else {}
        cursor = self._sessions.find({**after_key, **self._filter_live()}, SESSION_FIELDS).sort("_id").limit(limit)
        return [to_record(document).to_session() for document in await cursor.to_list(limit)]

    async def ping(self) -> None:
        """Read a document, as other operations do: the server answers a ping without authentication too."""
        await self._sessions.find_one({"_id": ""}, {"_id": 1})

    def _now(self) -> int:
        return to_microseconds(self._clock())

    def _filter_live(self) -> Document:
        return {"times.expires_at": {"$gt": self._now()}}

    async def _replace(self, key: str, record: Record, changed: Record) -> Record | None:
        """Write the changed record; return `None` if the session has ended or changed since it was read."""
        unchanged: Document = {"_id": key, "revision": record.revision, **self._filter_live()}
        fields = make_changed_fields(changed)
        if (changed.last_seen_at, changed.expires_at) != (record.last_seen_at, record.expires_at):
            # One of both times may be the old one. It is written back, so no touch may have changed it meanwhile.
            unchanged["times.last_seen_at"] = record.last_seen_at
            unchanged["times.expires_at"]["$eq"] = record.expires_at
            fields["times"] = make_times(changed.last_seen_at, changed.expires_at)
        document = await self._sessions.find_one_and_update(
            unchanged, {"$set": fields}, projection={"times": 1}, return_document=ReturnDocument.AFTER
        )
        if document is None:
            return None
        changed.last_seen_at = document["times"]["last_seen_at"]
        changed.expires_at = document["times"]["expires_at"]
        return changed
