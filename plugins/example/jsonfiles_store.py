"""An example of a store, to be read and copied: sessions with their events, as JSON files in one directory.

All processes of a machine can share it. It is slow with many sessions: counting and listing read every file, a change
writes the whole file of its session, and each stream that waits looks into that file ten times a second.
"""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from pathlib import Path
from types import CoroutineType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from mcp_tornado import stores

PATIENCE = 4.0  # seconds that an operation may take to get the lock: the server itself gives up after 5
T = TypeVar("T")


def jsonfiles_store(url: str, options: Mapping[str, Any], clock: stores.Clock) -> JsonFilesStore:
    """Return a store for `jsonfiles:///` and the path of a directory, such as `jsonfiles:////var/lib/mcp`."""
    path = url.removeprefix("jsonfiles:///")
    if path in ("", url):
        raise ValueError("write jsonfiles:/// and the path of a directory, such as jsonfiles:////var/lib/mcp")
    stores.check_options(options)
    return JsonFilesStore(Path(path), clock, stores.event_bounds(options))


def atomic(work: Callable[..., T]) -> Callable[..., CoroutineType[Any, Any, T]]:
    """Make an operation of a plain method, which runs in a thread while no other one does, in any process."""

    @wraps(work)
    async def operation(store: JsonFilesStore, *args: Any, **kwargs: Any) -> T:
        if not store.is_open:
            raise stores.StoreUnavailable("the store is closed")
        return await asyncio.to_thread(store.locked, time.monotonic() + PATIENCE, lambda: work(store, *args, **kwargs))

    return operation


class JsonFilesStore(stores.SessionStore, stores.EventLog):
    """A directory that holds a lock, the leases, and in `keys` a file for each session with its events.

    They are in one file so that they end together. A process that has events has such a file without a session.
    """

    shared = True

    def __init__(self, directory: Path, clock: stores.Clock, bounds: stores.EventBounds) -> None:
        self._lock, self._leases, self._keys = directory / "lock", directory / "leases.json", directory / "keys"
        self._clock, self._bounds = clock, bounds
        self.is_open = False

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.locked, time.monotonic() + PATIENCE, lambda: None)
        self.is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_open = False

    def locked(self, give_up_at: float, work: Callable[[], T]) -> T:
        """Do something while nobody else does anything in this directory."""
        try:
            self._keys.mkdir(parents=True, exist_ok=True)
            with self._lock.open("w") as lock:
                while True:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if time.monotonic() > give_up_at:
                            raise stores.StoreUnavailable(f"another process keeps {self._lock}") from None
                        time.sleep(0.001)
                return work()
        except OSError as error:
            raise stores.StoreUnavailable(f"{self._keys.parent} cannot be used: {error.strerror}") from error

    @atomic
    def create(self, session: stores.Session) -> None:
        """See `SessionStore.create`."""
        if self._path(session.key).exists():
            raise stores.DuplicateSession(stores.short_key(session.key))
        self._save(session.key, {**self._load(session.key), "session": session.to_dict()})

    @atomic
    def get(self, key: str) -> stores.Session | None:
        """See `SessionStore.get`."""
        session = self._load(key)["session"]
        return stores.Session.from_dict(session) if session is not None else None

    @atomic
    def touch(self, key: str, last_seen_at: datetime, expires_at: datetime) -> bool:
        """See `SessionStore.touch`."""
        seen, expires = stores.to_microseconds(last_seen_at), stores.to_microseconds(expires_at)
        stored = self._load(key)
        session = stored["session"]
        if not self._is_live(session) or seen < session["last_seen_at"] or expires < session["expires_at"]:
            return False
        session.update(last_seen_at=seen, expires_at=expires)
        self._save(key, stored)
        return True

    @atomic
    def update(self, key: str, changes: Mapping[str, Any], expected_revision: int) -> stores.Session | None:
        """See `SessionStore.update`."""
        stored = self._load(key)
        session = stored["session"]
        if not self._is_live(session):
            return None
        if session["revision"] != expected_revision:
            raise stores.RevisionConflict(f"expected revision {expected_revision}, found {session['revision']}")
        session.update(changes, revision=expected_revision + 1)
        self._save(key, stored)
        return stores.Session.from_dict(session)

    @atomic
    def delete(self, key: str) -> bool:
        """See `SessionStore.delete`."""
        existed = self._load(key)["session"] is not None
        self._path(key).unlink(missing_ok=True)
        return existed

    @atomic
    def sweep(self, now: datetime, limit: int) -> int:
        """See `SessionStore.sweep`; it has the lock, and so nothing happens between looking and removing."""
        expired = [session.key for session in self._sessions() if session.expires_at <= now][:limit]
        for key in expired:
            self._path(key).unlink()
        leases = _read(self._leases).items()
        _write(self._leases, {name: lease for name, lease in leases if lease["ends"] > self._now()})
        return len(expired)

    @atomic
    def count(self, principal: str | None = None) -> int:
        """See `SessionStore.count`."""
        live = [session for session in self._sessions() if session.expires_at > self._clock()]
        return sum(principal in (None, session.principal) for session in live)

    @atomic
    def page(self, after: str | None, limit: int) -> list[stores.Session]:
        """See `SessionStore.page`."""
        live = [session for session in self._sessions() if session.expires_at > self._clock()]
        return [session for session in live if after is None or session.key > after][:limit]

    @atomic
    def ping(self) -> None:
        """See `SessionStore.ping`: where the lock can be taken, the store answers."""

    @atomic
    def append(self, key: str, stream: str, message: Mapping[str, Any] | None, *, final: bool = False) -> str:
        """See `EventLog.append`."""
        stored = self._load(key)
        if not self._takes_events(key, stored):
            raise stores.SessionGone(stores.short_key(key))
        if stream in stored["ended"]:
            raise stores.StreamEnded(stream)
        stored["newest"] += 1
        event_id = str(stores.EventId.of(stored["newest"], key, stream))
        event = {"number": stored["newest"], "id": event_id, "stream": stream, "message": message, "final": final}
        event.update(at=self._now(), size=len(stores.encode_stored(message)))
        stored["events"] = self._kept([*stored["events"], event])
        if final:
            stored["ended"] = [*stored["ended"], stream][-self._bounds.max_per_session :]
        self._save(key, stored)
        return event_id

    @atomic
    def read(self, key: str, after: str | None, *, stream: str | None = None, limit: int = 100) -> list[stores.Event]:
        """See `EventLog.read`."""
        start = stores.EventId.number_after(key, after)
        if start is None:
            return []
        newer = [event for event in self._kept(self._load(key)["events"]) if event["number"] > start]
        wanted = [event for event in newer if stream in (None, event["stream"])][:limit]
        return [stores.Event(event["id"], event["stream"], event["message"], event["final"]) for event in wanted]

    async def wait(self, key: str, after: str | None, timeout: float) -> bool:
        """See `EventLog.wait`."""
        until = time.monotonic() + timeout
        while True:
            if await self._has_news(key, after):
                return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, 0.1))

    @atomic
    def claim(self, name: str, owner: str, ttl_seconds: float) -> bool:
        """See `EventLog.claim`."""
        leases = _read(self._leases)
        if name in leases and leases[name]["owner"] != owner and leases[name]["ends"] > self._now():
            return False
        leases[name] = {"owner": owner, "ends": self._now() + int(ttl_seconds * 1_000_000)}
        _write(self._leases, leases)
        return True

    @atomic
    def release(self, name: str, owner: str) -> None:
        """See `EventLog.release`."""
        leases = _read(self._leases)
        if name in leases and leases[name]["owner"] == owner:
            del leases[name]
            _write(self._leases, leases)

    @atomic
    def _has_news(self, key: str, after: str | None) -> bool:
        stored, start = self._load(key), stores.EventId.number_after(key, after)
        return not self._takes_events(key, stored) or (start is not None and stored["newest"] > start)

    def _takes_events(self, key: str, stored: dict[str, Any]) -> bool:
        return stores.is_process_key(key) or self._is_live(stored["session"])

    def _is_live(self, session: dict[str, Any] | None) -> bool:
        return session is not None and session["expires_at"] > self._now()

    def _now(self) -> int:
        return stores.to_microseconds(self._clock())

    def _kept(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the events that the bounds leave: the newest in any case."""
        kept = events[-self._bounds.max_per_session :]
        oldest, size = self._now() - int(self._bounds.ttl_seconds * 1_000_000), sum(event["size"] for event in kept)
        while len(kept) > 1 and (kept[0]["at"] < oldest or size > self._bounds.max_bytes):
            size -= kept.pop(0)["size"]
        return kept

    def _sessions(self) -> list[stores.Session]:
        """Return all sessions, those that have expired too, in the order of their keys."""
        stored = [_read(path)["session"] for path in self._keys.glob("*.json")]
        sessions = [stores.Session.from_dict(session) for session in stored if session is not None]
        return sorted(sessions, key=lambda session: session.key)

    def _path(self, key: str) -> Path:
        return self._keys / f"{quote(key, safe='')}.json"

    def _load(self, key: str) -> dict[str, Any]:
        return {"session": None, "newest": 0, "events": [], "ended": [], **_read(self._path(key))}

    def _save(self, key: str, stored: dict[str, Any]) -> None:
        _write(self._path(key), stored)


def _read(path: Path) -> dict[str, Any]:
    return stores.decode_stored(path.read_bytes()) if path.exists() else {}


def _write(path: Path, value: dict[str, Any]) -> None:
    new = path.with_name("new")
    new.write_bytes(stores.encode_stored(value))
    new.replace(path)  # in one step: a process that is killed leaves the old file or the new one
