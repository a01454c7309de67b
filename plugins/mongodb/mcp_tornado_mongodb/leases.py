"""Leases: one document for each; the `_id` is the name of the lease."""

from __future__ import annotations

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from mcp_tornado.stores import Clock, from_microseconds, to_microseconds
from mcp_tornado_mongodb.deployment import Document
from mcp_tornado_mongodb.documents import MICROSECONDS_PER_SECOND


class Leases:
    """The leases in a collection."""

    def __init__(self, collection: AsyncCollection[Document], clock: Clock) -> None:
        self._leases = collection
        self._clock = clock

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        now = to_microseconds(self._clock())
        expires_at = now + int(ttl_seconds * MICROSECONDS_PER_SECOND)
        lease: Document = {
            "owner": owner,
            "times": {"expires_at": expires_at, "expires": from_microseconds(expires_at)},
        }
        if await self._take(name, lease, now):
            return True
        try:
            await self._leases.insert_one({"_id": name, **lease})
        except DuplicateKeyError:
            # Another owner has the lease, or another task has just claimed it for this owner.
            return await self._take(name, lease, now)
        return True

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._leases.delete_one({"_id": name, "owner": owner})

    async def sweep(self) -> None:
        """Remove the expired leases."""
        await self._leases.delete_many({"times.expires_at": {"$lte": to_microseconds(self._clock())}})

    async def _take(self, name: str, lease: Document, now: int) -> bool:
        """Take or renew an existing lease, if it has the same owner or has expired; return whether that was done."""
        own_or_expired = {"$or": [{"owner": lease["owner"]}, {"times.expires_at": {"$lte": now}}]}
        # An explicit $and: in an update, nx-27017 evaluates an $or beside other conditions without brackets.
        result = await self._leases.update_one({"$and": [{"_id": name}, own_or_expired]}, {"$set": lease})
        return result.matched_count == 1
