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
_SECOND: Final = 1_000_000
_IDLE_PROCESS_KEPT: Final = 86_400.0
"""Seconds for which the server keeps the events of a process that neither appends nor reads, at least."""
_SWEEP_AT_ONCE: Final = 200
"""How many sessions one command sweeps: meanwhile the server does nothing else."""


def redis_store(url: str, options: Mapping[str, Any], clock: Clock) -> RedisStore:
    """Return a store for `redis://…` or `rediss://…`, the factory behind the entry points of these names.

    Args:
        url: As redis-py takes it: `redis://user:password@host:port/database?parameter=value`.
        options: `prefix`, with which all names in Redis begin, and `events`.
        clock: The time the store goes by.

    Raises:
        ValueError: The URL or an option cannot be used.
    """
    check_options(options, {"prefix"})
    prefix = options.get("prefix", _DEFAULT_PREFIX)
    if not isinstance(prefix, str):
        raise ValueError("the option prefix is a string")
    return RedisStore(Address.of(url), prefix, clock, event_bounds(options))


@dataclass(frozen=True, slots=True)
class _Opened:
    """What a store has while it is open."""

    client: Client
    wakeups: WakeUps

    async def close(self) -> None:
        """Close all connections, and wake who waits."""
        try:
            await self.wakeups.close()
        finally:
            await self.client.close()


class RedisStore(SessionStore, EventLog):
    """Sessions and events in a Redis database; `lua/common.lua` says what is stored under which name.

    Args:
        address: Which database.
        prefix: With what all names begin.
        clock: The time the store goes by.
        bounds: How much of each session's events is kept.
    """

    shared: ClassVar[bool] = True

    def __init__(self, address: Address, prefix: str, clock: Clock, bounds: EventBounds) -> None:
        self._address = address
        self._prefix = prefix
        # Channels are common to all databases of a server.
        self._channel = f"{prefix}wake-up:{address.database}"
        self._clock = clock
        self._bounds = (
            bounds.max_per_session,
            bounds.max_bytes,
            int(bounds.ttl_seconds * _SECOND),
            int(max(bounds.ttl_seconds, _IDLE_PROCESS_KEPT) * 1000),
        )
        self._opened: _Opened | None = None

    async def __aenter__(self) -> Self:
        opened = _Opened(Client(self._address), WakeUps(self._address, self._channel))
        try:
            await opened.client.check()
            await opened.client.run(scripts.COUNT, self._prefix, self._channel, self._now())  # shows a missing right
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
            *_optional(record.principal),
        )
        if not created:
            raise DuplicateSession(short_key(session.key))

    async def get(self, key: str) -> Session | None:
        """See `SessionStore.get`."""
        record = await self._record(key)
        return record.to_session() if record is not None else None

    async def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """See `SessionStore.touch`."""
        times = to_microseconds(last_seen_at), to_microseconds(expires_at)
        return bool(await self._run(scripts.TOUCH, key, *times))

    async def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> Session | None:
        """See `SessionStore.update`."""
        record = await self._record(key)
        if record is None or record.expires_at <= self._now():
            return None
        if record.revision != expected_revision:
            raise _conflict(expected_revision, record.revision)
        changed = record.changed(changes)
        answer: list[bytes] | bytes | None = await self._run(
            scripts.UPDATE,
            key,
            expected_revision,
            changed.revision,
            changed.payload,
            changed.last_seen_at if "last_seen_at" in changes else "",
            changed.expires_at if "expires_at" in changes else "",
            *_optional(changed.principal),
        )
        if answer is None:
            return None
        if isinstance(answer, bytes):
            raise _conflict(expected_revision, int(answer))
        changed.last_seen_at, changed.expires_at = map(int, answer)
        return changed.to_session()

    async def delete(self, key: str) -> bool:
        """See `SessionStore.delete`."""
        existed = bool(await self._run(scripts.DELETE, key))
        self._wake(key, None)
        return existed

    async def sweep(self, now: datetime, limit: int) -> int:
        """See `SessionStore.sweep`; leases that have ended are removed by the server."""
        self._check_open()
        moment = to_microseconds(now)
        removed = 0
        while removed < limit:
            at_once = min(limit - removed, _SWEEP_AT_ONCE)
            count: int = await self._run(scripts.SWEEP, moment, at_once)
            removed += count
            if count < at_once:
                break
        return removed

    async def count(self, principal: str | None = None) -> int:
        """See `SessionStore.count`."""
        return await self._run(scripts.COUNT, *_optional(principal))

    async def page(self, after: str | None, limit: int) -> list[Session]:
        """See `SessionStore.page`."""
        found: list[Any] = []
        look_after: str | bytes = after or ""
        while True:
            sessions, *rest = await self._run(scripts.PAGE, look_after, limit - len(found))
            found += sessions
            if not rest:
                return [_to_record(fields).to_session() for fields in found]
            look_after = rest[0]

    async def ping(self) -> None:
        """See `SessionStore.ping`."""
        await self._check_open().client.ping()

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
        self._check_open()
        start = EventId.number_after(key, after)
        if start is None:
            return []
        events = await self._run(scripts.READ, *self._bounds, key, start, limit, *_optional(stream))
        return [
            stored_event(key, number, _text(stream_name), data, final == b"1")
            for number, stream_name, final, data in events
        ]

    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """See `EventLog.wait`."""

        async def newest() -> int | None:
            return await self._run(scripts.NEWEST, *self._bounds, key)

        woken = await self._check_open().wakeups.wait(key, EventId.number_after(key, after), timeout, newest)
        self._check_open()
        return woken

    async def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        return bool(await self._run(scripts.CLAIM, name, owner, self._now() + int(ttl_seconds * _SECOND)))

    async def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        await self._run(scripts.RELEASE, name, owner)

    async def _run(self, script: Script, *arguments: str | bytes | int) -> Any:
        client = self._check_open().client
        return await client.run(script, self._prefix, self._channel, self._now(), *arguments)

    async def _record(self, key: str) -> Record | None:
        fields = await self._run(scripts.GET, key)
        return _to_record(fields) if fields[0] is not None else None

    def _wake(self, key: str, number: int | None) -> None:
        """Wake who waits here at once, whether the channel works or not."""
        if self._opened is not None:
            self._opened.wakeups.wake(key, number)

    def _check_open(self) -> _Opened:
        if self._opened is None:
            raise StoreUnavailable("the Redis store is not open")
        return self._opened

    def _now(self) -> int:
        return to_microseconds(self._clock())


def _optional(value: str | None) -> tuple[str, ...]:
    """Return the last argument of a script that does without it as well."""
    return () if value is None else (value,)


def _to_record(fields: list[Any]) -> Record:
    """Return the record that `fields_of` in `lua/common.lua` answers."""
    last_seen_at, expires_at, revision, principal, payload = fields
    return Record(
        last_seen_at=int(last_seen_at),
        expires_at=int(expires_at),
        revision=int(revision),
        principal=_text(principal) if principal is not None else None,
        payload=payload,
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _conflict(expected: int, found: int) -> RevisionConflict:
    return RevisionConflict(f"expected revision {expected}, found {found}")
