"""Sessions and events in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from mcp_tornado.stores import (
    Clock,
    DuplicateSession,
    Event,
    EventBounds,
    EventId,
    EventLog,
    Record,
    RevisionConflict,
    Session,
    SessionGone,
    SessionStore,
    StoreUnavailable,
    StreamEnded,
    check_options,
    encode_stored,
    event_bounds,
    short_key,
    stored_event,
    to_microseconds,
)
from mcp_tornado_redis import scripts
from mcp_tornado_redis.address import Address
from mcp_tornado_redis.client import Client
from mcp_tornado_redis.scripts import Script
from mcp_tornado_redis.wakeups import WakeUps

_DEFAULT_PREFIX: Final = "mcp-tornado:"
_MICROSECONDS_PER_SECOND: Final = 1_000_000
_IDLE_PROCESS_RETENTION_SECONDS: Final = 86_400.0
"""Seconds for which the server keeps the events of a process that neither appends nor reads, at least."""
_SWEEP_BATCH_SIZE: Final = 200
"""Number of sessions that one script sweeps at most: the server runs no other command meanwhile."""


def redis_store(url: str, options: Mapping[str, Any], clock: Clock) -> RedisStore:
    """Return a store for `redis://…` or `rediss://…`; the entry points `redis` and `rediss` name this factory.

    Args:
        url: A URL of redis-py: `redis://user:password@host:port/database?parameter=value`.
        options: `prefix`, the beginning of all names in Redis, and `events`.
        clock: The clock of the store.

    Raises:
        ValueError: The URL or an option cannot be used.
    """
    check_options(options, {"prefix"})
    prefix = options.get("prefix", _DEFAULT_PREFIX)
    if not isinstance(prefix, str):
        raise ValueError("the option prefix must be a string")
    return RedisStore(Address.parse(url), prefix, clock, event_bounds(options))


@dataclass(frozen=True, slots=True)
class _Opened:
    """The parts of an open store."""

    client: Client
    wakeups: WakeUps

    async def close(self) -> None:
        """Wake all waiting tasks, and close all connections."""
        try:
            await self.wakeups.close()
        finally:
            await self.client.close()


class RedisStore(SessionStore, EventLog):
    """Sessions and events in a Redis database; `lua/common.lua` documents the keys and their content.

    Args:
        address: The server and the database.
        prefix: The beginning of all names in Redis.
        clock: The clock of the store.
        bounds: The number, size and age of the events that a session keeps.
    """

    shared: ClassVar[bool] = True

    def __init__(self, address: Address, prefix: str, clock: Clock, bounds: EventBounds) -> None:
        self._address = address
        self._prefix = prefix
        # All databases of a server share their channels.
        self._channel = f"{prefix}wake-up:{address.database}"
        self._clock = clock
        self._bounds = (
            bounds.max_per_session,
            bounds.max_bytes,
            int(bounds.ttl_seconds * _MICROSECONDS_PER_SECOND),
            int(max(bounds.ttl_seconds, _IDLE_PROCESS_RETENTION_SECONDS) * 1000),
        )
        self._opened: _Opened | None = None

    async def __aenter__(self) -> Self:
        opened = _Opened(Client(self._address), WakeUps(self._address, self._channel))
        try:
            await opened.client.check_server()
            # Fails if the user lacks a right that the scripts need.
            await opened.client.run(scripts.COUNT, self._prefix, self._channel, self._now())
            await opened.wakeups.open()
        except BaseException:
            await opened.close()
            raise
        self._opened = opened
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    async def create(self, session: Session) -> None:
        """See `SessionStore.create`."""
        record = Record.of(session)
        created = await self._run(
            scripts.CREATE,
            session.key,
            record.last_seen_at,
            record.expires_at,
            record.revision,
            record.payload,
            *_optional_argument(record.principal),
        )
        if not created:
            raise DuplicateSession(short_key(session.key))

    async def get(self, key: str) -> Session | None:
        """See `SessionStore.get`."""
        record = await self._read_record(key)
        return record.to_session() if record is not None else None

    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """See `SessionStore.touch`."""
        times = to_microseconds(last_seen_at), to_microseconds(expires_at)
        return bool(await self._run(scripts.TOUCH, key, *times))

    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """See `SessionStore.update`."""
        record = await self._read_record(key)
        if record is None or record.expires_at <= self._now():
            return None
        if record.revision != expected_revision:
            raise _make_conflict(expected_revision, record.revision)
        changed = record.changed(changes)
        answer: list[bytes] | bytes | None = await self._run(
            scripts.UPDATE,
            key,
            expected_revision,
            changed.revision,
            changed.payload,
            changed.last_seen_at if "last_seen_at" in changes else "",
            changed.expires_at if "expires_at" in changes else "",
            *_optional_argument(changed.principal),
        )
        if answer is None:
            return None
        if isinstance(answer, bytes):
            raise _make_conflict(expected_revision, int(answer))
        changed.last_seen_at, changed.expires_at = map(int, answer)
        return changed.to_session()

    async def delete(self, key: str) -> bool:
        """See `SessionStore.delete`."""
        existed = bool(await self._run(scripts.DELETE, key))
        self._wake(key, None)
        return existed

    async def sweep(self, now: datetime, limit: int) -> int:
        """See `SessionStore.sweep`; the server removes expired leases by itself."""
        self._require_open()
        moment = to_microseconds(now)
        removed = 0
        while removed < limit:
            batch_size = min(limit - removed, _SWEEP_BATCH_SIZE)
            count: int = await self._run(scripts.SWEEP, moment, batch_size)
            removed += count
            if count < batch_size:
                break
        return removed

    async def count(self, principal: str | None = None) -> int:
        """See `SessionStore.count`."""
        return await self._run(scripts.COUNT, *_optional_argument(principal))

    async def page(self, after: str | None, limit: int) -> list[Session]:
        """See `SessionStore.page`."""
        found: list[Any] = []
        start: str | bytes = after or ""
        while True:
            sessions, *next_start = await self._run(scripts.PAGE, start, limit - len(found))
            found += sessions
            if not next_start:
                return [_to_record(fields).to_session() for fields in found]
            start = next_start[0]

    async def ping(self) -> None:
        """See `SessionStore.ping`."""
        await self._require_open().client.ping()

    async def append(self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False) -> str:
        """See `EventLog.append`."""
        data = encode_stored(message)
        number = await self._run(scripts.APPEND, *self._bounds, key, stream, int(final), data)
        if number == b"gone":
            raise SessionGone(short_key(key))
        if number == b"ended":
            raise StreamEnded(stream)
        self._wake(key, number)
        return str(EventId.of(number, key, stream))

    async def read(self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100) -> list[Event]:
        """See `EventLog.read`."""
        self._require_open()
        start = EventId.number_after(key, after)
        if start is None:
            return []
        events = await self._run(scripts.READ, *self._bounds, key, start, limit, *_optional_argument(stream))
        return [
            stored_event(key, number, _decode(stream_name), data, final == b"1")
            for number, stream_name, final, data in events
        ]

    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """See `EventLog.wait`."""

        async def get_newest() -> int | None:
            return await self._run(scripts.NEWEST, *self._bounds, key)

        woken = await self._require_open().wakeups.wait(key, EventId.number_after(key, after), timeout, get_newest)
        self._require_open()
        return woken

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        return bool(
            await self._run(scripts.CLAIM, name, owner, self._now() + int(ttl_seconds * _MICROSECONDS_PER_SECOND))
        )

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._run(scripts.RELEASE, name, owner)

    async def _run(self, script: Script, *arguments: str | bytes | int) -> Any:
        client = self._require_open().client
        return await client.run(script, self._prefix, self._channel, self._now(), *arguments)

    async def _read_record(self, key: str) -> Record | None:
        fields = await self._run(scripts.GET, key)
        return _to_record(fields) if fields[0] is not None else None

    def _wake(self, key: str, number: int | None) -> None:
        """Wake the tasks of this process at once, even if the subscription is interrupted."""
        if self._opened is not None:
            self._opened.wakeups.wake(key, number)

    def _require_open(self) -> _Opened:
        if self._opened is None:
            raise StoreUnavailable("the Redis store is not open")
        return self._opened

    def _now(self) -> int:
        return to_microseconds(self._clock())


def _optional_argument(value: str | None) -> tuple[str, ...]:
    """Return the last argument of a script; none if the value is `None`."""
    return () if value is None else (value,)


def _to_record(fields: list[Any]) -> Record:
    """Return the record of the fields that `fields_of` in `lua/common.lua` returns."""
    last_seen_at, expires_at, revision, principal, payload = fields
    return Record(
        last_seen_at=int(last_seen_at),
        expires_at=int(expires_at),
        revision=int(revision),
        principal=_decode(principal) if principal is not None else None,
        payload=payload,
    )


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _make_conflict(expected: int, found: int) -> RevisionConflict:
    return RevisionConflict(f"expected revision {expected}, found {found}")
