"""Announcements: the changes that a server publishes reach the sessions of the handshake era."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import mcp_types as types
import pytest
from mcp.server.lowlevel.server import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged

from mcp_tornado.cluster.mailbox import Mailbox
from mcp_tornado.cluster.membership import DEFAULT_TIMES, Membership
from mcp_tornado.kernel.announcements import Announcements
from mcp_tornado.kernel.subscriptions import EventRelay
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import (
    ClientInfo,
    Event,
    Session,
    SessionManager,
    SessionRules,
    StoreUnavailable,
    system_clock,
)
from mcp_tornado.sessions.guard import GuardedEventLog, StoreGuard
from mcp_tornado.sessions.state_handles import create_handle
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.streams.names import STANDALONE

pytestmark = pytest.mark.anyio

TIMEOUT_SECONDS = 30


class Store(MemoryStore):
    """A store that counts the passes over its sessions, can block them, and can be unavailable."""

    pass_count = 0
    failure_count = 0
    """How many of the next operations fail with `StoreUnavailable`."""
    unblocked: asyncio.Event | None = None
    """A pass waits for this event; `None` if passes do not wait."""

    def __init__(self) -> None:
        super().__init__(system_clock)
        self.pass_started = asyncio.Event()

    async def page(self, after: str | None, limit: int) -> list[Session]:
        if after is None:
            self.pass_count += 1
            self.pass_started.set()
        if self.unblocked is not None:
            await self.unblocked.wait()
        self._fail_if_unavailable()
        return await super().page(after, limit)

    async def append(self, *arguments: Any, **options: Any) -> str:
        if not str(arguments[0]).startswith("@"):
            self._fail_if_unavailable()
        return await super().append(*arguments, **options)

    def _fail_if_unavailable(self) -> None:
        if self.failure_count > 0:
            self.failure_count -= 1
            raise StoreUnavailable("the test has made the store unavailable")


async def accept_subscription(_: Any, params: Any) -> types.EmptyResult:
    return types.EmptyResult()


class Process:
    """The parts of a process that publish and announce."""

    def __init__(self, store: Store, *, has_subscriptions: bool = True) -> None:
        metrics = Metrics("test")
        self.store = store
        self.bus = InMemorySubscriptionBus()
        self.manager = SessionManager(store, SessionRules(), clock=system_clock, metrics=metrics)
        self.log = GuardedEventLog(store, StoreGuard(metrics))
        self.server: Server[Any] = Server(
            "publisher",
            on_subscriptions_listen=ListenHandler(self.bus),
            on_subscribe_resource=accept_subscription if has_subscriptions else None,
        )
        self.mailbox = Mailbox(self.log, Membership(self.log, self.manager, DEFAULT_TIMES, lambda _: None))
        self.announcements = Announcements(self.server, self.manager, self.log)
        self.relay = EventRelay(self.server, self.mailbox, self.announcements)

    async def create_session(self, **changes: Any) -> str:
        """Create a session, change fields of its record, and return its key."""
        _, session = await self.manager.create(
            client=ClientInfo(), protocol_version="2025-11-25", client_params={}, initialized=True
        )
        if changes:
            await self.manager.update(session.key, lambda _: changes)
        return session.key

    async def wait_for_announcements(self, key: str, count: int) -> None:
        """Wait until a session has got this number of announcements, and check that it has not got more."""
        events: list[Event] = []
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while len(events) < count:
                    await self.log.wait(key, events[-1].id if events else None, TIMEOUT_SECONDS)
                    events = await self.log.read(key, None, stream=STANDALONE)
        except TimeoutError:
            pytest.fail(f"the session has got {len(events)} of {count} announcements")
        assert len(events) == count

    async def announced(self, key: str) -> list[str]:
        """Flush the announcements, and return what a session has got: URIs of resources, or names of notifications."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self.announcements.flush()
        except TimeoutError:
            pytest.fail("the announcements were not flushed")
        messages = [event.message or {} for event in await self.log.read(key, None, stream=STANDALONE)]
        return [each.get("params", {}).get("uri") or each["method"].removeprefix("notifications/") for each in messages]


@asynccontextmanager
async def running(**options: Any) -> AsyncGenerator[Process]:
    async with Store() as store:
        process = Process(store, **options)
        with process.relay.collecting():
            async with process.relay.relaying():
                yield process


@pytest.fixture
async def process(anyio_backend: str) -> AsyncGenerator[Process]:
    async with running() as process:
        yield process


def subscribed_to(*uris: str) -> dict[str, Any]:
    return {"journal": [{"method": "resources/subscribe", "params": {"uri": uri}} for uri in uris]}


async def test_changed_list_is_announced_to_all_sessions(process: Process) -> None:
    keys = [await process.create_session() for _ in range(250)]
    for event in (ToolsListChanged(), PromptsListChanged(), ResourcesListChanged()):
        await process.bus.publish(event)
    expected = ["tools/list_changed", "prompts/list_changed", "resources/list_changed"]
    assert [await process.announced(key) for key in keys] == [expected] * 250


async def test_updated_resource_is_announced_to_its_subscribers_only(process: Process) -> None:
    other_journal = [{"method": "future/watch", "params": {"uri": "memo://a"}}, {"method": "x"}]
    both, one, neither = (
        await process.create_session(**subscribed_to("memo://a", "memo://b")),
        await process.create_session(**subscribed_to("memo://b")),
        await process.create_session(journal=other_journal),
    )
    for uri in ("memo://a", "memo://b", "memo://c"):
        await process.bus.publish(ResourceUpdated(uri))
    assert await process.announced(both) == ["memo://a", "memo://b"]
    assert await process.announced(one) == ["memo://b"]
    assert await process.announced(neither) == []


async def test_updated_resource_of_a_server_without_subscriptions_starts_no_pass() -> None:
    async with running(has_subscriptions=False) as process:
        key = await process.create_session()
        await process.bus.publish(ResourceUpdated("memo://a"))
        assert await process.announced(key) == []
        assert process.store.pass_count == 0
        await process.bus.publish(ToolsListChanged())
        assert await process.announced(key) == ["tools/list_changed"]


async def test_state_behind_a_handle_gets_no_announcement(process: Process) -> None:
    _, handle = await create_handle(process.manager, client=ClientInfo())
    await process.bus.publish(ToolsListChanged())
    assert await process.announced(handle.key) == []


async def test_events_published_during_a_pass_are_announced_once_by_the_next_pass(process: Process) -> None:
    key = await process.create_session(**subscribed_to("memo://a"))
    unblocked = process.store.unblocked = asyncio.Event()
    await process.bus.publish(ToolsListChanged())
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await process.store.pass_started.wait()
    except TimeoutError:
        pytest.fail("no pass over the sessions has started")
    for _ in range(50):
        await process.bus.publish(ToolsListChanged())
        await process.bus.publish(ResourceUpdated("memo://a"))
    unblocked.set()
    assert await process.announced(key) == ["tools/list_changed", "tools/list_changed", "memo://a"]
    assert process.store.pass_count == 2


async def test_pass_waits_while_the_store_is_unavailable(process: Process) -> None:
    keys = [await process.create_session() for _ in range(3)]
    page = process.store.page

    async def page_and_fail_next(after: str | None, limit: int) -> list[Session]:
        sessions = await page(after, limit)
        process.store.failure_count = 1
        return sessions

    process.store.page = page_and_fail_next
    process.store.failure_count = 1
    await process.bus.publish(ToolsListChanged())
    assert [await process.announced(key) for key in keys] == [["tools/list_changed"]] * 3


async def test_pause_after_a_very_long_pass_is_limited(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes long if it has to wait for an unavailable store."""
    hours = itertools.count(step=3600)
    clock = SimpleNamespace(monotonic=lambda: next(hours))
    monkeypatch.setattr("mcp_tornado.kernel.announcements.time", clock)
    monkeypatch.setattr("mcp_tornado.kernel.announcements._MAX_PAUSE_SECONDS", 0.1)
    key = await process.create_session()
    await process.bus.publish(ToolsListChanged())
    await process.wait_for_announcements(key, 1)
    await process.bus.publish(PromptsListChanged())
    await process.wait_for_announcements(key, 2)


async def test_frequent_changes_do_not_fill_the_log_of_a_session(process: Process) -> None:
    key = await process.create_session()
    await process.bus.publish(ToolsListChanged())
    await process.wait_for_announcements(key, 1)
    for _ in range(1000):
        await process.bus.publish(ToolsListChanged())
        await asyncio.sleep(0)  # lets a pass run if one does not pause
    await process.wait_for_announcements(key, 1)
    assert await process.announced(key) == ["tools/list_changed"] * 2, "a flush must end the pause"


async def test_session_that_ends_during_a_pass_does_not_stop_the_pass(process: Process) -> None:
    keys = sorted([await process.create_session() for _ in range(3)])
    page = process.store.page

    async def page_and_end_session(after: str | None, limit: int) -> list[Session]:
        sessions = await page(after, limit)
        await process.store.delete(keys[1])
        return sessions

    process.store.page = page_and_end_session
    await process.bus.publish(ToolsListChanged())
    assert [await process.announced(key) for key in keys] == [["tools/list_changed"], [], ["tools/list_changed"]]


async def test_event_that_the_store_cannot_keep_does_not_stop_the_pass(process: Process) -> None:
    append = process.store.append

    async def append_if_small(key: str, stream: str, message: Any, **options: Any) -> str:
        if "huge" in str(message):
            raise ValueError("the document is too large")
        return await append(key, stream, message, **options)

    process.store.append = append_if_small
    key = await process.create_session(**subscribed_to("memo://huge"))
    for event in (ResourceUpdated("memo://huge"), ToolsListChanged()):  # in one pass
        process.announcements.put(event)
    assert await process.announced(key) == ["tools/list_changed"]


async def test_events_published_before_the_relay_ends_are_announced() -> None:
    async with Store() as store:
        process = Process(store)
        key = await process.create_session()
        with process.relay.collecting():
            await process.bus.publish(PromptsListChanged())  # before the relay sends events
            async with process.relay.relaying():
                await process.bus.publish(ToolsListChanged())
        assert await process.announced(key) == ["prompts/list_changed", "tools/list_changed"]


async def test_end_of_the_relay_ends_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("_MIN_PAUSE_SECONDS", "_MAX_PAUSE_SECONDS"):
        monkeypatch.setattr(f"mcp_tornado.kernel.announcements.{pause}", 3600)
    async with Store() as store:
        process = Process(store)
        key = await process.create_session()
        with process.relay.collecting():
            async with process.relay.relaying():
                await process.bus.publish(ToolsListChanged())
                await process.wait_for_announcements(key, 1)
                await process.bus.publish(PromptsListChanged())
        assert len(await store.read(key, None, stream=STANDALONE)) == 2


async def test_events_that_are_not_announced_before_the_end_are_logged(
    monkeypatch: pytest.MonkeyPatch, logs: io.StringIO
) -> None:
    monkeypatch.setattr("mcp_tornado.kernel.subscriptions._FLUSH_TIMEOUT_SECONDS", 0.01)
    async with running() as process:
        await process.create_session()
        process.store.unblocked = asyncio.Event()
        await process.bus.publish(ToolsListChanged())
    assert "changes.untold" in logs.getvalue()


async def test_relay_of_a_server_that_issues_no_sessions_announces_nothing() -> None:
    async with Store() as store:
        process = Process(store)
        key = await process.create_session()
        relay = EventRelay(process.server, process.mailbox, None)
        assert not relay.reaches_sessions
        with relay.collecting():
            async with relay.relaying():
                await process.bus.publish(ToolsListChanged())
        assert await process.announced(key) == []
