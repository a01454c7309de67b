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
from mcp_tornado_mongodb.deployment import DEFAULT_DATABASE, DEFAULT_TIMEOUT_SECONDS, Client, Deployment, Document
from mcp_tornado_mongodb.events import Events
from mcp_tornado_mongodb.leases import Leases
from mcp_tornado_mongodb.sessions import Sessions
from mcp_tornado_mongodb.wakeups import Numbers, WakeUps, await_if_needed

_T = TypeVar("_T")

_INDEX_TIMEOUT_SECONDS: Final = 30.0
"""Seconds that the creation of the indexes may take: over many documents it takes long."""
_CLOSE_TIMEOUT_SECONDS: Final = 1.0
"""Seconds that the driver may take to end its sessions with the server."""
_SWEEP_BATCH_SIZE: Final = 100
"""Number of sessions that one command sweeps at most; their keys fit into the first batch of a cursor."""


def mongodb_store(url: str, options: Mapping[str, Any], clock: Clock) -> MongoStore:
    """Return a store for `mongodb://…` or `mongodb+srv://…`; the entry points of these names name this factory.

    Args:
        url: A URL of the driver; its path is the name of the database, by default `mcp_tornado`.
        options: `driver`, which is `"pymongo"` or `"motor"`, and `events`.
        clock: The clock of the store.

    Raises:
        ValueError: The URL or an option cannot be used, or the driver is Motor and Motor is not installed.
    """
    check_options(options, {"driver"})
    deployment = Deployment.parse(url, options.get("driver", "pymongo"))
    return MongoStore(
        clock,
        event_bounds(options),
        deployment.connect,
        database=deployment.database,
        hosts=deployment.hosts,
        limit=deployment.timeout,
    )


@dataclass(frozen=True, slots=True)
class _Opened:
    """The parts of an open store."""

    client: Client
    calls: Calls
    sessions: Sessions
    events: Events
    leases: Leases
    wakeups: WakeUps


class MongoStore(SessionStore, EventLog):
    """Sessions and events in a MongoDB database; see `mcp_tornado_mongodb.documents`.

    Args:
        clock: The clock of the store.
        bounds: The number, size and age of the events that a session keeps.
        connect: Makes a client of PyMongo's asynchronous API, or one with the same methods; the store closes it.
        database: The name of the database.
        hosts: The name of the server in messages.
        limit: Seconds that an operation may take.
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
        limit: float = DEFAULT_TIMEOUT_SECONDS,
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
        client = await calls.run(self._make_client())
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
            size = min(limit - removed, _SWEEP_BATCH_SIZE)
            found, count = await self._run(lambda opened, size=size: opened.sessions.sweep(now, size))
            removed += count
            if found < size:
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
        woken = await self._require_open().wakeups.wait(key, EventId.number_after(key, after), timeout)
        self._require_open()
        return woken

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        return await self._run(lambda opened: opened.leases.claim(name, owner, ttl_seconds))

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._run(lambda opened: opened.leases.release(name, owner))

    async def _make_client(self) -> Client:
        return self._connect()

    async def _open(self, client: Client, calls: Calls) -> _Opened:
        database = client.get_database(self._database)

        def get_collection(name: str, read_concern: str) -> AsyncCollection[Document]:
            return database.get_collection(
                name, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern(read_concern)
            )

        # A compare-and-set must see the last write, even if no majority has it yet.
        documents, archive, lease_documents = (
            get_collection(name, "local") for name in ("sessions", "events", "leases")
        )
        # A reader of events must not see an event that a failover rolls back. A majority has every acknowledged write,
        # unless the URL asks for less.
        committed = "majority" if documents.write_concern.document.get("w") == "majority" else "local"
        events = Events(
            documents,
            archive,
            get_collection("sessions", committed),
            get_collection("events", committed),
            self._clock,
            self._bounds,
            lambda key: wakeups.wake(key),
        )

        async def on_removed(removed: Sequence[Mapping[str, Any]]) -> None:
            for document in removed:
                wakeups.wake(document["_id"])
            await events.remove_logs([document["log"] for document in removed])

        async def newest_numbers(keys: Collection[str]) -> Numbers:
            return await calls.run(events.newest_numbers(keys))

        sessions = Sessions(documents, self._clock, on_removed)
        await calls.run(sessions.ping())  # an unreachable server fails here, not after the longer timeout
        await calls.run(indexes.create_indexes(documents, archive, lease_documents), timeout=_INDEX_TIMEOUT_SECONDS)
        # The server refuses a change stream with any other read concern.
        wakeups = WakeUps(get_collection("sessions", "majority"), newest_numbers, calls)
        return _Opened(client, calls, sessions, events, Leases(lease_documents, self._clock), wakeups)

    async def _run(self, operation: Callable[[_Opened], Coroutine[Any, Any, _T]]) -> _T:
        opened = self._require_open()
        return await opened.calls.run(operation(opened))

    def _require_open(self) -> _Opened:
        if self._opened is None:
            raise StoreUnavailable("the MongoDB store is not open")
        return self._opened


async def _close(client: Client, calls: Calls) -> None:
    await calls.wait_until_done()
    with pymongo.timeout(_CLOSE_TIMEOUT_SECONDS):
        await await_if_needed(client.close())
