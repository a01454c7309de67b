"""An example of a store, to read and to copy. It is slow with many sessions: each change writes the whole file."""

import asyncio
import time
from pathlib import Path

from filelock import FileLock

from mcp_tornado import stores


def atomic(method):
    """Turn a method that gets the content of the file, and may change it, into an operation that holds the lock."""

    async def operation(store, *args, **kwargs):
        if not store.is_open:
            raise stores.StoreUnavailable("the store is closed")
        return await asyncio.to_thread(store.run_locked, lambda data: method(store, data, *args, **kwargs))

    return operation


class JsonFileStore(stores.SessionStore, stores.EventLog):
    """Sessions and events in one JSON file that the processes of a machine share; its URL is `jsonfile:///` + path."""

    shared = True
    ping = atomic(lambda store, data: None)

    def __init__(self, url, options, clock):
        path = url.removeprefix("jsonfile:///")
        if path in ("", url):
            raise ValueError("write jsonfile:/// and the path of a file, such as jsonfile:////var/lib/mcp.json")
        stores.check_options(options)
        self._path, self._bounds, self.is_open = Path(path), stores.event_bounds(options), False
        self._now = lambda: stores.to_microseconds(clock())

    async def __aenter__(self):
        self.is_open = await asyncio.to_thread(self.run_locked, lambda data: True)
        return self

    async def __aexit__(self, kind, error, traceback):
        self.is_open = False

    def run_locked(self, work):
        """Call `work` with the content of the file, under the lock, and write the changes; write none if it raises."""
        try:
            with FileLock(self._path.with_suffix(".lock")).acquire(timeout=4.0, poll_interval=0.001):  # seconds
                before = self._path.read_bytes() if self._path.exists() else b"{}"
                data = {"sessions": {}, "logs": {}, "leases": {}, **stores.decode_stored(before)}
                result = work(data)
                after = stores.encode_stored(data)
                if after != before:
                    new = self._path.with_suffix(".new")
                    new.write_bytes(after)
                    new.replace(self._path)  # atomic: a process that is killed leaves the old file or the new one
                return result
        except OSError as error:  # the timeout of the lock is an OSError too
            raise stores.StoreUnavailable(f"{self._path} cannot be used: {error.strerror or 'locked'}") from error

    @atomic
    def create(self, data, session):
        if session.key in data["sessions"]:
            raise stores.DuplicateSession(stores.short_key(session.key))
        data["sessions"][session.key] = session.to_dict()

    @atomic
    def get(self, data, key):
        return stores.Session.from_dict(data["sessions"][key]) if key in data["sessions"] else None

    @atomic
    def touch(self, data, key, last_seen_at, expires_at):
        session = self._live_sessions(data).get(key)
        seen, expires = stores.to_microseconds(last_seen_at), stores.to_microseconds(expires_at)
        if session is None or seen < session["last_seen_at"] or expires < session["expires_at"]:
            return False
        session.update(last_seen_at=seen, expires_at=expires)
        return True

    @atomic
    def update(self, data, key, changes, expected_revision):
        if not (session := self._live_sessions(data).get(key)):
            return None
        if session["revision"] != expected_revision:
            raise stores.RevisionConflict(f"expected revision {expected_revision}, found {session['revision']}")
        session.update(changes, revision=expected_revision + 1)
        return stores.Session.from_dict(session)

    @atomic
    def delete(self, data, key):
        data["logs"].pop(key, None)
        return data["sessions"].pop(key, None) is not None

    @atomic
    def sweep(self, data, now, limit):
        moment = stores.to_microseconds(now)
        expired = [key for key, session in data["sessions"].items() if session["expires_at"] <= moment][:limit]
        for key in expired:
            del data["sessions"][key]
            data["logs"].pop(key, None)
        stores.Leases(data["leases"]).sweep(now=self._now())
        return len(expired)

    @atomic
    def count(self, data, principal=None):
        return sum(principal in (None, session["principal"]) for session in self._live_sessions(data).values())

    @atomic
    def page(self, data, after, limit):
        live = sorted(self._live_sessions(data).items())
        return [stores.Session.from_dict(session) for key, session in live if key > (after or "")][:limit]

    @atomic
    def append(self, data, key, stream, message, *, final=False):
        if not self._accepts_events(data, key):
            raise stores.SessionGone(stores.short_key(key))
        log = self._load_log(data, key)
        event_id = log.append(key, stream, message, final, now=self._now(), bounds=self._bounds)
        data["logs"][key] = log.to_dict()
        return event_id

    @atomic
    def read(self, data, key, after, *, stream=None, limit=100):
        return self._load_log(data, key).read(key, after, stream, limit, now=self._now(), bounds=self._bounds)

    async def wait(self, key, after, timeout):
        deadline = time.monotonic() + timeout
        while not (has_news := await self._has_news(key, after)) and (left := deadline - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.1))  # seconds
        return has_news

    @atomic
    def claim(self, data, name, owner, ttl_seconds):
        return stores.Leases(data["leases"]).claim(name, owner, ttl_seconds, now=self._now())

    @atomic
    def release(self, data, name, owner):
        stores.Leases(data["leases"]).release(name, owner)

    @atomic
    def _has_news(self, data, key, after):
        return self._load_log(data, key).has_newer(key, after) or not self._accepts_events(data, key)

    def _load_log(self, data, key):
        return stores.StoredLog.from_dict(data["logs"].get(key, {}))

    def _accepts_events(self, data, key):
        return stores.is_process_key(key) or key in self._live_sessions(data)

    def _live_sessions(self, data):
        return {key: session for key, session in data["sessions"].items() if session["expires_at"] > self._now()}
