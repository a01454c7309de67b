"""Sessions and events in an SQLite file."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

from mcp_tornado.stores import (
    Clock,
    Event,
    EventBounds,
    EventId,
    EventLog,
    Record,
    Session,
    SessionStore,
    StoreUnavailable,
    check_options,
    encode_stored,
    event_bounds,
    is_process_key,
    stored_event,
    to_microseconds,
)
from mcp_tornado_sqlite import events, leases, logs, sessions
from mcp_tornado_sqlite.location import parse_url
from mcp_tornado_sqlite.logs import MICROSECONDS_PER_SECOND
from mcp_tornado_sqlite.wakeups import WakeUps
from mcp_tornado_sqlite.worker import Reader, Work, Writer

_T = TypeVar("_T")

_SWEEP_BATCH_SIZE: Final = 200
"""Number of sessions, leases or processes that one transaction sweeps at most."""
_NO_LIMIT: Final = sys.maxsize


def sqlite_store(url: str, options: Mapping[str, Any], clock: Clock) -> SQLiteStore:
    """Return a store for `sqlite:///…`; the entry point `sqlite` names this factory.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`.
        options: Only `events`.
        clock: The clock of the store; the threads of the store call it too.

    Raises:
        ValueError: The URL names no file, or there are other options.
    """
    path = parse_url(url)
    check_options(options)
    return SQLiteStore(path, clock, event_bounds(options))


@dataclass(frozen=True, slots=True)
class _Opened:
    """The parts of an open store."""

    reader: Reader
    writer: Writer
    wakeups: WakeUps
    stack: AsyncExitStack


class SQLiteStore(SessionStore, EventLog):
    """Sessions and events in an SQLite file that all processes of one machine share.

    When an operation returns, its changes are on the disk. The file is not opened before the store is entered.

    Args:
        path: The file; entering creates it if there is none.
        clock: The clock of the store.
        bounds: The number, size and age of the events that a session keeps.
    """

    shared: ClassVar[bool] = True

    def __init__(self, path: Path, clock: Clock, bounds: EventBounds) -> None:
        self._path = path
        self._clock = clock
        self._bounds = bounds
        self._opened: _Opened | None = None

    async def __aenter__(self) -> Self:
        path = self._path.absolute()
        reader = Reader(path, "mcp-tornado-sqlite-reader")
        wakeups = WakeUps(path, reader)
        writer = Writer(path, "mcp-tornado-sqlite-writer", wakeups.check_changes)
        async with AsyncExitStack() as stack:
            # The writer creates the file. It closes last, and SQLite then removes the -wal and -shm files.
            for part in (writer, reader, wakeups):
                await stack.enter_async_context(part)
            self._opened = _Opened(reader, writer, wakeups, stack.pop_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.stack.aclose()

    async def create(self, session: Session) -> None:
        """See `SessionStore.create`."""
        record = Record.of(session)
        await self._write(lambda connection: sessions.create(connection, session.key, record))

    async def get(self, key: str) -> Session | None:
        """See `SessionStore.get`."""
        record = await self._read(lambda connection: sessions.get(connection, key))
        return record.to_session() if record is not None else None

    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """See `SessionStore.touch`."""
        seen, expires = to_microseconds(last_seen_at), to_microseconds(expires_at)
        return await self._write(lambda connection: sessions.touch(connection, key, seen, expires, self._now()))

    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """See `SessionStore.update`."""
        record = await self._write(
            lambda connection: sessions.update(connection, key, changes, expected_revision, self._now())
        )
        return record.to_session() if record is not None else None

    async def delete(self, key: str) -> bool:
        """See `SessionStore.delete`."""
        if is_process_key(key):
            await self._write(lambda connection: logs.delete_process(connection, key))
            return False
        return await self._write(lambda connection: sessions.delete(connection, key))

    async def sweep(self, now: datetime, limit: int) -> int:
        """See `SessionStore.sweep`; it uses several transactions, so that other processes can write in between.

        It also removes expired leases, and the events of processes that have been idle for a day.
        """
        moment = to_microseconds(now)
        removed = await self._remove_in_batches(
            limit, lambda connection, size: sessions.sweep(connection, moment, size)
        )
        await self._remove_in_batches(_NO_LIMIT, lambda connection, size: leases.sweep(connection, size, self._now()))
        in_use = [key for key in self._require_open().wakeups.waited_keys() if is_process_key(key)]
        await self._write(lambda connection: logs.mark_processes_used(connection, in_use, self._now()))
        await self._remove_in_batches(
            _NO_LIMIT, lambda connection, size: logs.sweep_processes(connection, size, self._now())
        )
        return removed

    async def count(self, principal: str | None = None) -> int:
        """See `SessionStore.count`."""
        return await self._read(lambda connection: sessions.count(connection, principal, self._now()))

    async def page(self, after: str | None, limit: int) -> list[Session]:
        """See `SessionStore.page`."""
        records = await self._read(lambda connection: sessions.page(connection, after, max(limit, 0), self._now()))
        return [record.to_session() for record in records]

    async def ping(self) -> None:
        """See `SessionStore.ping`; it takes the write lock, and writes nothing."""
        await self._write(lambda connection: None)

    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False) -> str:
        """See `EventLog.append`."""
        data = encode_stored(message)
        number = await self._write(
            lambda connection: events.append(connection, key, stream, data, final, self._bounds, self._now())
        )
        return str(EventId.of(number, key, stream))

    async def read(self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100) -> list[Event]:
        """See `EventLog.read`."""
        start = EventId.number_after(key, after)
        if start is None:
            self._require_open()
            return []
        rows = await self._read(
            lambda connection: events.read(connection, key, start, stream, max(limit, 0), self._bounds, self._now())
        )
        return [stored_event(key, row.number, row.stream, row.message, bool(row.final)) for row in rows]

    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """See `EventLog.wait`."""
        start = EventId.number_after(key, after)
        woken = await self._require_open().wakeups.wait(
            key, timeout, lambda connection: events.has_news(connection, key, start, self._now())
        )
        self._require_open()
        return woken

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        return await self._write(
            lambda connection: leases.claim(
                connection, name, owner, int(ttl_seconds * MICROSECONDS_PER_SECOND), self._now()
            )
        )

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._write(lambda connection: leases.release(connection, name, owner))

    def _now(self) -> int:
        return to_microseconds(self._clock())

    def _require_open(self) -> _Opened:
        if self._opened is None:
            raise StoreUnavailable("the SQLite store is closed")
        return self._opened

    async def _read(self, work: Work[_T]) -> _T:
        return await self._require_open().reader.run(work)

    async def _write(self, work: Work[_T]) -> _T:
        return await self._require_open().writer.run(work)

    async def _remove_in_batches(self, limit: int, remove: Callable[[sqlite3.Connection, int], int]) -> int:
        """Remove at most `limit` rows in several transactions, and return how many were removed.

        Args:
            limit: The maximum number of rows.
            remove: Removes at most the given number of rows and returns how many it removed; 0 ends the loop.
        """
        removed = 0
        while removed < limit:
            size = min(limit - removed, _SWEEP_BATCH_SIZE)
            count = await self._write(lambda connection, size=size: remove(connection, size))
            if not count:
                break
            removed += count
        return removed
