"""What a server publishes as changed, as the sessions of the handshake era are told it."""

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
from mcp_tornado.sessions import ClientInfo, Session, SessionManager, SessionRules, StoreUnavailable, system_clock
from mcp_tornado.sessions.guard import GuardedEventLog, StoreGuard
from mcp_tornado.sessions.handles import create_handle
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.streams.names import STANDALONE

pytestmark = pytest.mark.anyio


class Store(MemoryStore):
    """A store that counts the walks through it, can hold them up, and can be away."""

    walks = 0
    away_for = 0
    gate: asyncio.Event | None = None

    async def page(self, after: str | None, limit: int) -> list[Session]:
        self.walks += after is None
        if self.gate is not None:
            await self.gate.wait()
        self._be_away()
        return await super().page(after, limit)

    async def append(self, *arguments: Any, **more: Any) -> str:
        if not str(arguments[0]).startswith("@"):
            self._be_away()
        return await super().append(*arguments, **more)

    def _be_away(self) -> None:
        if self.away_for > 0:
            self.away_for -= 1
            raise StoreUnavailable("it is away")


async def subscription(_: Any, params: Any) -> types.EmptyResult:
    return types.EmptyResult()


class Process:
    """What a process runs of the kernel, as far as it matters here."""

    def __init__(self, store: Store, *, has_subscriptions: bool = True) -> None:
        metrics = Metrics("test")
        self.store = store
        self.bus = InMemorySubscriptionBus()
        self.manager = SessionManager(store, SessionRules(), clock=system_clock, metrics=metrics)
        self.log = GuardedEventLog(store, StoreGuard(metrics))
        self.server: Server[Any] = Server(
            "publisher",
            on_subscriptions_listen=ListenHandler(self.bus),
            on_subscribe_resource=subscription if has_subscriptions else None,
        )
        self.mailbox = Mailbox(self.log, Membership(self.log, self.manager, DEFAULT_TIMES, lambda _: None))
        self.announcements = Announcements(self.server, self.manager, self.log)
        self.published = EventRelay(self.server, self.mailbox, self.announcements)

    async def session(self, **more: Any) -> str:
        _, session = await self.manager.create(
            client=ClientInfo(), protocol_version="2025-11-25", client_params={}, initialized=True
        )
        if more:
            await self.manager.update(session.key, lambda _: more)
        return session.key

    async def logged(self, key: str, number: int) -> None:
        """Wait until so much was logged for a session; it must not be more."""
        async with asyncio.timeout(30):
            while len(events := await self.log.read(key, None, stream=STANDALONE)) < number:
                await asyncio.sleep(0.01)
        assert len(events) == number

    async def told(self, key: str) -> list[str]:
        """Return what a session was told, once all are told."""
        async with asyncio.timeout(30):
            await self.announcements.flush()
        messages = [event.message or {} for event in await self.log.read(key, None, stream=STANDALONE)]
        return [each.get("params", {}).get("uri") or each["method"].removeprefix("notifications/") for each in messages]


@asynccontextmanager
async def running(**more: Any) -> AsyncGenerator[Process]:
    async with Store(system_clock) as store:
        process = Process(store, **more)
        with process.published.collecting():
            async with process.published.relaying():
                yield process


@pytest.fixture
async def process(anyio_backend: str) -> AsyncGenerator[Process]:
    async with running() as process:
        yield process


def subscribed(*uris: str) -> dict[str, Any]:
    return {"journal": [{"method": "resources/subscribe", "params": {"uri": uri}} for uri in uris]}


async def test_all_sessions_are_told_that_a_list_has_changed(process: Process) -> None:
    keys = [await process.session() for _ in range(250)]
    for event in (ToolsListChanged(), PromptsListChanged(), ResourcesListChanged()):
        await process.bus.publish(event)
    expected = ["tools/list_changed", "prompts/list_changed", "resources/list_changed"]
    assert [await process.told(key) for key in keys] == [expected] * 250


async def test_those_who_subscribed_are_told_that_a_resource_was_updated(process: Process) -> None:
    both, one, neither = (
        await process.session(**subscribed("memo://a", "memo://b")),
        await process.session(**subscribed("memo://b")),
        await process.session(journal=[{"method": "future/watch", "params": {"uri": "memo://a"}}, {"method": "x"}]),
    )
    for uri in ("memo://a", "memo://b", "memo://c"):
        await process.bus.publish(ResourceUpdated(uri))
    assert await process.told(both) == ["memo://a", "memo://b"]
    assert await process.told(one) == ["memo://b"]
    assert await process.told(neither) == []


async def test_where_nobody_can_subscribe_no_session_is_looked_at_for_a_resource() -> None:
    async with running(has_subscriptions=False) as process:
        key = await process.session()
        await process.bus.publish(ResourceUpdated("memo://a"))
        assert await process.told(key) == []
        assert process.store.walks == 0
        await process.bus.publish(ToolsListChanged())
        assert await process.told(key) == ["tools/list_changed"]


async def test_state_behind_a_handle_is_no_session(process: Process) -> None:
    _, handle = await create_handle(process.manager, client=ClientInfo())
    await process.bus.publish(ToolsListChanged())
    assert await process.told(handle.key) == []


async def test_what_is_published_during_a_walk_is_told_by_the_next_one_and_once(process: Process) -> None:
    key = await process.session(**subscribed("memo://a"))
    gate = process.store.gate = asyncio.Event()
    await process.bus.publish(ToolsListChanged())
    async with asyncio.timeout(30):
        while not process.store.walks:
            await asyncio.sleep(0)
    for _ in range(50):
        await process.bus.publish(ToolsListChanged())
        await process.bus.publish(ResourceUpdated("memo://a"))
    gate.set()
    assert await process.told(key) == ["tools/list_changed", "tools/list_changed", "memo://a"]
    assert process.store.walks == 2


async def test_while_the_store_is_away_it_is_waited_for(process: Process) -> None:
    keys = [await process.session() for _ in range(3)]
    page = process.store.page

    async def then_away(after: str | None, limit: int) -> list[Session]:
        sessions = await page(after, limit)
        process.store.away_for = 1
        return sessions

    process.store.page = then_away
    process.store.away_for = 1
    await process.bus.publish(ToolsListChanged())
    assert [await process.told(key) for key in keys] == [["tools/list_changed"]] * 3


async def test_after_a_walk_that_took_very_long_the_next_change_is_told_soon(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So long does a walk take that has to wait for a store which is away."""
    hours = itertools.count(step=3600)
    clock = SimpleNamespace(monotonic=lambda: next(hours))
    monkeypatch.setattr("mcp_tornado.kernel.announcements.time", clock)
    monkeypatch.setattr("mcp_tornado.kernel.announcements._MAX_PAUSE_SECONDS", 0.1)
    key = await process.session()
    await process.bus.publish(ToolsListChanged())
    await process.logged(key, 1)
    await process.bus.publish(PromptsListChanged())
    await process.logged(key, 2)


async def test_what_changes_all_the_time_does_not_fill_the_log_of_a_session(process: Process) -> None:
    key = await process.session()
    await process.bus.publish(ToolsListChanged())
    await process.logged(key, 1)
    for _ in range(1000):
        await process.bus.publish(ToolsListChanged())
        await asyncio.sleep(0)
    await process.logged(key, 1)
    assert await process.told(key) == ["tools/list_changed"] * 2, "at the end there is no pause"


async def test_a_session_that_ends_meanwhile_keeps_nobody_from_being_told(process: Process) -> None:
    keys = sorted([await process.session() for _ in range(3)])
    page = process.store.page

    async def ending(after: str | None, limit: int) -> list[Session]:
        sessions = await page(after, limit)
        await process.store.delete(keys[1])
        return sessions

    process.store.page = ending
    await process.bus.publish(ToolsListChanged())
    assert [await process.told(key) for key in keys] == [["tools/list_changed"], [], ["tools/list_changed"]]


async def test_what_a_store_cannot_keep_keeps_nobody_from_being_told(process: Process) -> None:
    append = process.store.append

    async def bounded(key: str, stream: str, message: Any, **more: Any) -> str:
        if "huge" in str(message):
            raise ValueError("a document is too large")
        return await append(key, stream, message, **more)

    process.store.append = bounded
    key = await process.session(**subscribed("memo://huge"))
    for event in (ResourceUpdated("memo://huge"), ToolsListChanged()):  # in one walk
        process.announcements.put(event)
    assert await process.told(key) == ["tools/list_changed"]


async def test_what_was_published_before_the_end_is_told() -> None:
    async with Store(system_clock) as store:
        process = Process(store)
        key = await process.session()
        with process.published.collecting():
            await process.bus.publish(PromptsListChanged())  # before anybody tells it
            async with process.published.relaying():
                await process.bus.publish(ToolsListChanged())
        assert await process.told(key) == ["prompts/list_changed", "tools/list_changed"]


async def test_at_the_end_no_pause_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("_MIN_PAUSE_SECONDS", "_MAX_PAUSE_SECONDS"):
        monkeypatch.setattr(f"mcp_tornado.kernel.announcements.{pause}", 3600)
    async with Store(system_clock) as store:
        process = Process(store)
        key = await process.session()
        with process.published.collecting():
            async with process.published.relaying():
                await process.bus.publish(ToolsListChanged())
                await process.logged(key, 1)
                await process.bus.publish(PromptsListChanged())
        assert len(await store.read(key, None, stream=STANDALONE)) == 2


async def test_what_has_reached_nobody_at_the_end_is_logged(monkeypatch: pytest.MonkeyPatch, logs: io.StringIO) -> None:
    monkeypatch.setattr("mcp_tornado.kernel.subscriptions._FLUSH_TIMEOUT_SECONDS", 0.01)
    async with running() as process:
        await process.session()
        process.store.gate = asyncio.Event()
        await process.bus.publish(ToolsListChanged())
    assert "changes.untold" in logs.getvalue()


async def test_where_no_sessions_are_made_none_are_told() -> None:
    async with Store(system_clock) as store:
        process = Process(store)
        key = await process.session()
        published = EventRelay(process.server, process.mailbox, None)
        assert not published.reaches_sessions
        with published.collecting():
            async with published.relaying():
                await process.bus.publish(ToolsListChanged())
        assert await process.told(key) == []
