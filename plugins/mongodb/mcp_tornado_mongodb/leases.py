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
        times = {"expires_at": expires_at, "expires": from_microseconds(expires_at)}
        free_or_own = {"_id": name, "$or": [{"owner": owner}, {"times.expires_at": {"$lte": now}}]}
        change = {"$set": {"owner": owner, "times": times}}
        try:
            await self._leases.update_one(free_or_own, change, upsert=True)
        except DuplicateKeyError:
            # It is there, and was not free a moment ago; perhaps another task claimed it for the same owner.
            return (await self._leases.update_one(free_or_own, change)).matched_count == 1
        return True

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._leases.delete_one({"_id": name, "owner": owner})

    async def sweep(self) -> None:
        """Remove the leases that have ended."""
        await self._leases.delete_many({"times.expires_at": {"$lte": to_microseconds(self._clock())}})
