"""Sessions and events in MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

import pymongo
from pymongo import ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.read_concern import ReadConcern

from mcp_tornado.stores import (
    Clock,
    Event,
    EventBounds,
    EventId,
    EventLog,
    Session,
    SessionStore,
    StoreUnavailable,
    check_options,
    event_bounds,
)
from mcp_tornado_mongodb import indexes
from mcp_tornado_mongodb.calls import Calls
from mcp_tornado_mongodb.deployment import DEFAULT_DATABASE, OPERATION_LIMIT, Client, Deployment, Document
from mcp_tornado_mongodb.events import Events
from mcp_tornado_mongodb.leases import Leases
from mcp_tornado_mongodb.sessions import Sessions
from mcp_tornado_mongodb.wakeups import Numbers, WakeUps, settled

_T = TypeVar("_T")

_INDEX_LIMIT: Final = 30.0
"""Seconds the making of indexes may take: over many documents it takes its time."""
_CLOSE_LIMIT: Final = 1.0
"""Seconds the driver may take to say goodbye to the server."""
_SWEEP_AT_ONCE: Final = 100
"""How many sessions one command sweeps; the server's answer with their keys is one batch."""


def mongodb_store(url: str, options: Mapping[str, Any], clock: Clock) -> MongoStore:
    """Return a store for `mongodb://…` or `mongodb+srv://…`, the factory behind the entry points of these names.

    Args:
        url: As the driver takes it; its path is the database's name, `mcp_tornado` where there is none.
        options: `driver`, which is `"pymongo"` or `"motor"`, and `events`.
        clock: The time the store goes by.

    Raises:
        ValueError: The URL or an option cannot be used, or Motor is wanted and not installed.
    """
    check_options(options, {"driver"})
    deployment = Deployment.of(url, options.get("driver", "pymongo"))
    return MongoStore(
        clock,
        event_bounds(options),
        deployment.connect,
        database=deployment.database,
        hosts=deployment.hosts,
        limit=deployment.limit,
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a store has while it is open."""

    client: Client
    calls: Calls
    sessions: Sessions
    events: Events
    leases: Leases
    wakeups: WakeUps


class MongoStore(SessionStore, EventLog):
    """Sessions and events in a MongoDB database, see `mcp_tornado_mongodb.documents`.

    Args:
        clock: The time the store goes by.
        bounds: How much of each session's events is kept.
        connect: Makes a client of PyMongo's asynchronous API, or one with the same methods; the store closes it.
        database: The database's name.
        hosts: What to call the server in messages.
        limit: Seconds an operation may take.
    """

    shared: ClassVar[bool] = True

    def __init__(
        self,
        clock: Clock,
        bounds: EventBounds,
        connect: Callable[[], Any],
        *,
        database: str = DEFAULT_DATABASE,
        hosts: str = "an injected client",
        limit: float = OPERATION_LIMIT,
    ) -> None:
        self._clock = clock
        self._bounds = bounds
        self._connect = connect
        self._database = database
        self._hosts = hosts
        self._limit = limit
        self._opened: _Opened | None = None

    async def __aenter__(self) -> Self:
        calls = Calls(self._hosts, self._limit)
        client = await calls.run(self._new_client())
        try:
            self._opened = await self._open(client, calls)
        except BaseException:
            await _close(client, calls)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.wakeups.close()
            await _close(opened.client, opened.calls)

    async def create(self, session: Session) -> None:
        """See `SessionStore.create`."""
        await self._run(lambda opened: opened.sessions.create(session))

    async def get(self, key: str) -> Session | None:
        """See `SessionStore.get`."""
        return await self._run(lambda opened: opened.sessions.get(key))

    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """See `SessionStore.touch`."""
        return await self._run(lambda opened: opened.sessions.touch(key, last_seen_at, expires_at))

    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """See `SessionStore.update`."""
        return await self._run(lambda opened: opened.sessions.update(key, changes, expected_revision))

    async def delete(self, key: str) -> bool:
        """See `SessionStore.delete`."""
        return await self._run(lambda opened: opened.sessions.delete(key))

    async def sweep(self, now: datetime, limit: int) -> int:
        """See `SessionStore.sweep`."""
        removed = 0
        while removed < limit:
            at_once = min(limit - removed, _SWEEP_AT_ONCE)
            found, count = await self._run(lambda opened, at_once=at_once: opened.sessions.sweep(now, at_once))
            removed += count
            if found < at_once:
                break
        await self._run(lambda opened: opened.leases.sweep())
        return removed

    async def count(self, principal: str | None = None) -> int:
        """See `SessionStore.count`."""
        return await self._run(lambda opened: opened.sessions.count(principal))

    async def page(self, after: str | None, limit: int) -> list[Session]:
        """See `SessionStore.page`."""
        return await self._run(lambda opened: opened.sessions.page(after, limit))

    async def ping(self) -> None:
        """See `SessionStore.ping`."""
        await self._run(lambda opened: opened.sessions.ping())

    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False) -> str:
        """See `EventLog.append`."""
        return await self._run(lambda opened: opened.events.append(key, stream, message, final))

    async def read(self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100) -> list[Event]:
        """See `EventLog.read`."""
        return await self._run(lambda opened: opened.events.read(key, after, stream, limit))

    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """See `EventLog.wait`."""
        woken = await self._check_open().wakeups.wait(key, EventId.number_after(key, after), timeout)
        self._check_open()
        return woken

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        return await self._run(lambda opened: opened.leases.claim(name, owner, ttl_seconds))

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._run(lambda opened: opened.leases.release(name, owner))

    async def _new_client(self) -> Client:
        return self._connect()

    async def _open(self, client: Client, calls: Calls) -> _Opened:
        database = client.get_database(self._database)

        def collection(name: str, read_concern: str) -> AsyncCollection[Document]:
            return database.get_collection(
                name, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern(read_concern)
            )

        # What is compared and set must see the last write, whether a majority has it by now or not.
        documents, archive, lent = (collection(name, "local") for name in ("sessions", "events", "leases"))
        # Who follows a log must not see an event that a failover takes back. A majority has every write that was
        # acknowledged, unless the URL asks for less.
        committed = "majority" if documents.write_concern.document.get("w") == "majority" else "local"
        events = Events(
            documents,
            archive,
            collection("sessions", committed),
            collection("events", committed),
            self._clock,
            self._bounds,
            lambda key: wakeups.wake(key),
        )

        async def ended(removed: Sequence[Mapping[str, Any]]) -> None:
            for document in removed:
                wakeups.wake(document["_id"])
            await events.drop([document["log"] for document in removed])

        async def newest_numbers(keys: Collection[str]) -> Numbers:
            return await calls.run(events.newest_numbers(keys))

        sessions = Sessions(documents, self._clock, ended)
        await calls.run(sessions.ping())  # so that a server that is away is noticed before the longer limit
        await calls.run(indexes.make_indexes(documents, archive, lent), limit=_INDEX_LIMIT)
        # The server refuses a change stream with any other read concern.
        wakeups = WakeUps(collection("sessions", "majority"), newest_numbers, calls)
        return _Opened(client, calls, sessions, events, Leases(lent, self._clock), wakeups)

    async def _run(self, operation: Callable[[_Opened], Coroutine[Any, Any, _T]]) -> _T:
        opened = self._check_open()
        return await opened.calls.run(operation(opened))

    def _check_open(self) -> _Opened:
        if self._opened is None:
            raise StoreUnavailable("the MongoDB store is not open")
        return self._opened


async def _close(client: Client, calls: Calls) -> None:
    await calls.finished()
    with pymongo.timeout(_CLOSE_LIMIT):
        await settled(client.close())
