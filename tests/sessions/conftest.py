"""Fixtures: a clock that tests move, a store that counts calls and fails on request, and managers that use both."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import ClientInfo, SessionManager, SessionRules, SessionStore
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.testing import FakeClock


class WatchedStore(SessionStore):
    """Counts the calls of another store; `before` and `after` hold coroutine functions to run around an operation."""

    shared = False

    def __init__(self, store):
        self.inner = store
        self.calls = Counter()
        self.before = {}
        self.after = {}

    @property
    def writes(self):
        return sum(self.calls[name] for name in ("create", "touch", "update", "delete", "sweep"))

    def fail(self, operation, error):
        async def raise_error():
            raise error

        self.before[operation] = raise_error

    async def _run(self, operation, *arguments):
        self.calls[operation] += 1
        if operation in self.before:
            await self.before[operation]()
        result = await getattr(self.inner, operation)(*arguments)
        if operation in self.after:
            await self.after[operation]()
        return result

    async def __aenter__(self):
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *details):
        await self.inner.__aexit__(*details)

    async def create(self, session):
        await self._run("create", session)

    async def get(self, key):
        return await self._run("get", key)

    async def touch(self, key, last_seen_at, expires_at):
        return await self._run("touch", key, last_seen_at, expires_at)

    async def update(self, key, changes, expected_revision):
        return await self._run("update", key, changes, expected_revision)

    async def delete(self, key):
        return await self._run("delete", key)

    async def sweep(self, now, limit):
        return await self._run("sweep", now, limit)

    async def count(self, principal=None):
        return await self._run("count", principal)

    async def page(self, after, limit):
        return await self._run("page", after, limit)

    async def ping(self):
        await self._run("ping")


class LogLines:
    """The log lines that were written to a stream."""

    def __init__(self, stream):
        self._stream = stream

    @property
    def text(self):
        return self._stream.getvalue()

    def events(self, name=None):
        lines = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in lines if name is None or line["event"] == name]


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def metrics():
    return Metrics("1.2.3")


@pytest.fixture
def sample(metrics):
    """Return the value of a metric; a missing series counts as 0."""

    def read(name, **labels):
        return metrics.registry.get_sample_value(f"mcp_tornado_{name}", labels) or 0

    return read


@pytest.fixture
async def store(anyio_backend, clock):
    async with WatchedStore(MemoryStore(clock)) as watched:
        yield watched


@pytest.fixture
def make_manager(store, clock, metrics):
    def make(**rules):
        return SessionManager(store, SessionRules(**rules), clock=clock, metrics=metrics)

    return make


@pytest.fixture
def manager(make_manager):
    return make_manager(idle_timeout=100, lifetime=1000, touch_interval=10)


@pytest.fixture
def new():
    """Create a session with a manager, and return its id and the session."""

    async def create(manager, **fields):
        fields.setdefault("client", ClientInfo(remote_addr="192.0.2.1", name="a client", version="7"))
        fields.setdefault("protocol_version", "2025-11-25")
        fields.setdefault("client_params", {"capabilities": {}})
        return await manager.create(**fields)

    return create


@pytest.fixture
def logs(logs):
    """All log lines from DEBUG up, parsed."""
    return LogLines(logs)
