"""Leases: one document each, whose `_id` is the lease's name."""

from __future__ import annotations

from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError

from mcp_tornado.stores import Clock, from_microseconds, to_microseconds
from mcp_tornado_mongodb.deployment import Document
from mcp_tornado_mongodb.documents import SECOND


class Leases:
    """The leases in a collection."""

    def __init__(self, collection: AsyncCollection[Document], clock: Clock) -> None:
        self._leases = collection
        self._clock = clock

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        now = to_microseconds(self._clock())
        expires_at = now + int(ttl_seconds * SECOND)
        held: Document = {
            "owner": owner,
            "times": {"expires_at": expires_at, "expires": from_microseconds(expires_at)},
        }
        if await self._take(name, held, now):
            return True
        try:
            await self._leases.insert_one({"_id": name, **held})
        except DuplicateKeyError:
            # Somebody holds it; perhaps this owner, for whom another task was quicker.
            return await self._take(name, held, now)
        return True

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._leases.delete_one({"_id": name, "owner": owner})

    async def sweep(self) -> None:
        """Remove the leases that have ended."""
        await self._leases.delete_many({"times.expires_at": {"$lte": to_microseconds(self._clock())}})

    async def _take(self, name: str, held: Document, now: int) -> bool:
        """Take a lease that is there, if it is its owner's already, or has ended."""
        own_or_ended = {"$or": [{"owner": held["owner"]}, {"times.expires_at": {"$lte": now}}]}
        # In an update, nx-27017 loses the brackets around an $or that stands beside other conditions.
        result = await self._leases.update_one({"$and": [{"_id": name}, own_or_ended]}, {"$set": held})
        return result.matched_count == 1
