"""Stores with one fault each, tested with the contract kit. `test_contract_catches.py` runs this file."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from mcp_tornado.sessions import EventBounds, EventId, RevisionConflict, SessionGone
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.stores.options import event_bounds
from mcp_tornado.testing import EventLogContract, SessionStoreContract, base

base.DEADLINE_SECONDS = 1.0  # a broken store does not become correct later


class Correct(MemoryStore):
    """The control: a store without a fault."""


class ResurrectsOnTouch(MemoryStore):
    """Inserts the session again, like a store that saves whole records."""

    async def touch(self, key, last_seen_at, expires_at):
        session = await self.get(key)
        if session is None:
            return False
        await self.delete(key)
        await self.create(dataclasses.replace(session, last_seen_at=last_seen_at, expires_at=expires_at))
        return True


class TouchesBackwards(MemoryStore):
    async def touch(self, key, last_seen_at, expires_at):
        record = self._live(key)
        if record is None:
            return False
        await super().update(key, dataclasses.replace(record.to_session(), last_seen_at=last_seen_at).to_dict(), 0)
        record = self._live(key)
        record.revision -= 1
        record.last_seen_at = int(last_seen_at.timestamp() * 1_000_000)
        return True


class ResurrectsOnUpdate(MemoryStore):
    async def update(self, key, changes, expected_revision):
        session = await self.get(key)
        if session is None or session.revision != expected_revision:
            return await super().update(key, changes, expected_revision)
        await self.delete(key)
        changed = type(session).from_dict({**session.to_dict(), **changes, "revision": expected_revision + 1})
        await self.create(changed)
        return changed


class LosesAConcurrentUpdate(MemoryStore):
    """Compares the revision in one step, and writes in a later one."""

    async def update(self, key, changes, expected_revision):
        session = await self.get(key)
        if session is not None and session.revision != expected_revision:
            raise RevisionConflict(str(expected_revision))
        await asyncio.sleep(0)
        record = self._live(key)
        return await super().update(key, changes, record.revision if record is not None else expected_revision)


class UpdatesSomeFieldsOnly(MemoryStore):
    async def update(self, key, changes, expected_revision):
        kept = {name: value for name, value in changes.items() if name != "journal"}
        return await super().update(key, kept, expected_revision)


class ForgetsAField(MemoryStore):
    async def create(self, session):
        await super().create(dataclasses.replace(session, client=dataclasses.replace(session.client, user_agent=None)))


class RoundsTimes(MemoryStore):
    async def create(self, session):
        await super().create(dataclasses.replace(session, expires_at=session.expires_at.replace(microsecond=0)))


class OverwritesOnCreate(MemoryStore):
    async def create(self, session):
        await self.delete(session.key)
        await super().create(session)


class CountsExpiredSessions(MemoryStore):
    async def count(self, principal=None):
        return sum(principal in (None, record.principal) for record in self._records.values())


class ListsExpiredSessions(MemoryStore):
    async def page(self, after, limit):
        keys = sorted(key for key in self._records if key > (after or ""))
        return [self._records[key].to_session() for key in keys[:limit]]


class PagesTwiceOverASession(MemoryStore):
    async def page(self, after, limit):
        first = [self._records[after].to_session()] if after in self._records and limit > 1 else []
        return [*first, *await super().page(after, limit - len(first))]


class SweepsALiveSession(MemoryStore):
    """Finds expired sessions in one step, and removes them in a later one without checking again."""

    async def sweep(self, now, limit):
        expired = [key for key, record in self._records.items() if record.to_session().expires_at <= now]
        await asyncio.sleep(0)
        return sum([await self.delete(key) for key in expired[:limit]])


class SweepsTooMuch(MemoryStore):
    async def sweep(self, now, limit):
        return await super().sweep(now, limit + 1)


class KeepsTheEventsOfDeletedSessions(MemoryStore):
    async def delete(self, key):
        kept = self._events._logs.get(key)
        existed = await super().delete(key)
        if kept is not None:
            self._events._logs[key] = kept
        return existed


class RepeatsAnEventId(MemoryStore):
    async def append(self, key, stream, message, *, final=False):
        event_id = EventId.parse(await super().append(key, stream, message, final=final))
        return str(EventId(event_id.number // 2 * 2, event_id.session, event_id.stream))


class ShowsAnEventBeforeAnEarlierOne(MemoryStore):
    """Assigns the number in one step, and shows the event in a later one."""

    hidden = frozenset()

    async def append(self, key, stream, message, *, final=False):
        event_id = await super().append(key, stream, message, final=final)
        if EventId.parse(event_id).number % 3 == 1:
            self.hidden |= {event_id}
            await asyncio.sleep(0.001)
            self.hidden -= {event_id}
        return event_id

    async def read(self, key, after, *, stream=None, limit=100):
        events = await super().read(key, after, stream=stream, limit=limit)
        return [event for event in events if event.id not in self.hidden]


class NeverWakesAWaiter(MemoryStore):
    async def wait(self, key, after, timeout):
        if self._events.has_newer(key, after) or not self._takes_events(key):
            return True
        await asyncio.sleep(min(timeout, base.DEADLINE_SECONDS))
        return False


class ForgetsThatAStreamHasEnded(MemoryStore):
    async def append(self, key, stream, message, *, final=False):
        event_id = await super().append(key, stream, message, final=final)
        self._events._logs[key]._ended.clear()
        return event_id


class EvictsTheNewestEvent(MemoryStore):
    async def read(self, key, after, *, stream=None, limit=100):
        events = await super().read(key, after, stream=stream, limit=limit)
        return [event for event in events if len(str(event.message)) <= self._events._bounds.max_bytes]


class KeepsEventsForever(MemoryStore):
    def __init__(self, clock, bounds):
        super().__init__(clock, EventBounds(max_per_session=10**9, max_bytes=10**12, ttl_seconds=10**9))


class BoundsEachStreamByItself(MemoryStore):
    async def read(self, key, after, *, stream=None, limit=100):
        log = self._events._logs.get(key)
        bounds, self._events._bounds = self._events._bounds, EventBounds(10**9, 10**12, 10**9)
        try:
            names = sorted({event.stream for event in log._events}) if log is not None else []
            found = [await super(BoundsEachStreamByItself, self).read(key, after, stream=name) for name in names]
        finally:
            self._events._bounds = bounds
        return sorted((event for events in found for event in events[-bounds.max_per_session :]), key=lambda e: e.id)

    async def append(self, key, stream, message, *, final=False):
        bounds, self._events._bounds = self._events._bounds, EventBounds(10**9, 10**12, 10**9)
        try:
            return await super().append(key, stream, message, final=final)
        finally:
            self._events._bounds = bounds


class KeepsEventsUntilTheFirstExpiry(MemoryStore):
    """Gives events their own time to live, which a touch does not extend."""

    async def create(self, session):
        await super().create(session)
        self.__dict__.setdefault("first", {})[session.key] = session.expires_at

    async def append(self, key, stream, message, *, final=False):
        if key in self.__dict__.get("first", {}) and self.first[key] <= self._clock():
            raise SessionGone(key[:8])
        return await super().append(key, stream, message, final=final)


class GivesALeaseTwice(MemoryStore):
    async def claim(self, name, owner, ttl_seconds):
        free = await super().claim(f"{name} of {owner}", owner, ttl_seconds)
        await asyncio.sleep(0)
        return free


class ClaimsToBeShared(MemoryStore):
    shared = True


class AnswersAfterClosing(MemoryStore):
    def _check_open(self):
        pass


def _contracts(store):
    """Return the two contract classes for a store, subclassed as a store author does."""

    class Sessions(SessionStoreContract):
        @pytest.fixture
        def make_store(self, clock):
            return lambda **options: store(clock, event_bounds(options))

    class Events(EventLogContract):
        @pytest.fixture
        def make_store(self, clock):
            return lambda **options: store(clock, event_bounds(options))

    return {f"TestSessionsOf{store.__name__}": Sessions, f"TestEventsOf{store.__name__}": Events}


for _store in MemoryStore.__subclasses__():
    globals().update(_contracts(_store))
