"""The bus of the stateless era's subscriptions, between processes that share a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp.server.lowlevel.server import Server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from structlog.testing import capture_logs

from mcp_tornado.cluster.mailbox import Mailbox
from mcp_tornado.cluster.membership import DEFAULT_TIMES, Membership
from mcp_tornado.kernel import subscriptions
from mcp_tornado.kernel.subscriptions import PUBLISHED, EventRelay
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import SessionManager, SessionRules, StoreUnavailable, system_clock
from mcp_tornado.sessions.guard import GuardedEventLog, StoreGuard
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

EVERY_KIND = [ToolsListChanged(), PromptsListChanged(), ResourcesListChanged(), ResourceUpdated("memo://ä")]
LAST = ResourceUpdated("memo://last")


class Store(MemoryStore):
    """A store that can be away: for so many attempts to append."""

    away_for = 0.0

    async def append(self, *arguments: Any, **more: Any) -> str:
        if self.away_for > 0:
            self.away_for -= 1
            raise StoreUnavailable("it is away")
        return await super().append(*arguments, **more)


class Heard:
    """A listener on a bus."""

    def __init__(self, bus: InMemorySubscriptionBus) -> None:
        self.events: list[ServerEvent] = []
        self._changed = asyncio.Event()
        bus.subscribe(self._take)

    def _take(self, event: ServerEvent) -> None:
        self.events.append(event)
        self._changed.set()

    async def until(self, event: ServerEvent, times: int = 1) -> list[ServerEvent]:
        """Return all that was heard, once that event was, so many times."""
        async with asyncio.timeout(30):
            while self.events.count(event) < times:
                self._changed.clear()
                await self._changed.wait()
        return self.events


@pytest.fixture
async def store(anyio_backend: str) -> AsyncGenerator[Store]:
    async with Store(system_clock) as store:
        yield store


def server_on(bus: InMemorySubscriptionBus) -> Server[Any]:
    return Server("publisher", on_subscriptions_listen=ListenHandler(bus))


@asynccontextmanager
async def process(store: Store, bus: InMemorySubscriptionBus) -> AsyncGenerator[Mailbox]:
    """Run what a process runs of the kernel, as far as it matters here."""
    metrics = Metrics("test")
    log = GuardedEventLog(store, StoreGuard(metrics))
    manager = SessionManager(store, SessionRules(), clock=system_clock, metrics=metrics)
    membership = Membership(log, manager, DEFAULT_TIMES, lambda: None)
    mailbox = Mailbox(log, membership)
    await membership.join()
    await mailbox.start()
    try:
        published = EventRelay(server_on(bus), mailbox, None)
        with published.collecting():
            async with published.relaying():
                yield mailbox
    finally:
        await mailbox.stop()
        await membership.leave()


async def test_what_one_process_publishes_is_heard_once_in_each_of_them_in_order(store: Store) -> None:
    buses = [InMemorySubscriptionBus() for _ in range(3)]
    async with process(store, buses[0]), process(store, buses[1]), process(store, buses[2]):
        heard = [Heard(bus) for bus in buses]
        published = [*EVERY_KIND, *(ResourceUpdated(f"memo://{number}") for number in range(250))]
        for event in published:
            await buses[0].publish(event)
        await heard[1].until(published[-1])
        await heard[2].until(published[-1])
        # Were anything told again, it would come before this.
        await buses[1].publish(LAST)
        for each in heard:
            assert await each.until(LAST) == [*published, LAST]


async def test_nothing_goes_round_and_round_where_two_processes_are_on_one_bus(store: Store) -> None:
    """As in a program that serves the same server twice."""
    common, other = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with process(store, common), process(store, common), process(store, other):
        heard, heard_other = Heard(common), Heard(other)
        await other.publish(ToolsListChanged())
        await heard.until(ToolsListChanged(), times=2)
        # Were it told again, that would come before this, which both of the two tell.
        await common.publish(LAST)
        assert await heard_other.until(LAST, times=2) == [ToolsListChanged(), LAST, LAST]


async def test_what_was_published_before_the_end_is_told(store: Store) -> None:
    here, there = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with process(store, there):
        heard = Heard(there)
        async with process(store, here):
            await here.publish(LAST)
        assert await heard.until(LAST) == [LAST]


async def test_afterwards_nothing_is_told(store: Store) -> None:
    here, there = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with process(store, there):
        heard = Heard(there)
        async with process(store, here):
            pass
        await here.publish(ToolsListChanged())
        async with process(store, here):
            await here.publish(LAST)
        assert await heard.until(LAST) == [LAST]


async def test_events_of_a_kind_that_is_not_known_are_passed_over(store: Store) -> None:
    here, there = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with process(store, here) as mailbox, process(store, there):
        heard = Heard(there)
        newer = {"method": "notifications/newer", "params": {"of": "a newer version"}}
        await mailbox.broadcast(PUBLISHED, {"events": [newer, {"method": "notifications/tools/list_changed"}]})
        assert await heard.until(ToolsListChanged()) == [ToolsListChanged()]


async def test_while_the_store_is_away_for_a_moment_nothing_is_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_RETRY_DELAYS_SECONDS", (0.0, 0.0))
    here, there = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with process(store, here), process(store, there):
        heard = Heard(there)
        store.away_for = 1
        for event in EVERY_KIND:
            await here.publish(event)
        assert await heard.until(EVERY_KIND[-1]) == EVERY_KIND


async def test_while_the_store_is_away_who_listens_here_still_hears_and_a_warning_says_what_was_dropped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_RETRY_DELAYS_SECONDS", (0.0, 0.0))
    here, there = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with process(store, here), process(store, there):
        heard_here, heard_there = Heard(here), Heard(there)
        store.away_for = float("inf")
        with capture_logs() as lines:
            for event in EVERY_KIND:
                await here.publish(event)
            assert heard_here.events == EVERY_KIND
            async with asyncio.timeout(30):
                while sum(line["events"] for line in lines if line["event"] == "subscriptions.not_told") < 4:
                    await asyncio.sleep(0)
        store.away_for = 0
        await here.publish(LAST)
        assert await heard_there.until(LAST) == [LAST]


class OwnBus(InMemorySubscriptionBus):
    """A bus that its author shares between processes, or does not."""


async def test_a_bus_of_the_users_is_left_alone(store: Store) -> None:
    own, other = OwnBus(), InMemorySubscriptionBus()
    async with process(store, own), process(store, other):
        heard_own, heard_other = Heard(own), Heard(other)
        await own.publish(ToolsListChanged())
        await other.publish(PromptsListChanged())
        # Were they bridged, each would have it by the time that a mail is through both ways.
        third = InMemorySubscriptionBus()
        async with process(store, third):
            heard_third = Heard(third)
            await other.publish(LAST)
            await heard_third.until(LAST)
        assert heard_own.events == [ToolsListChanged()]
        assert heard_other.events == [PromptsListChanged(), LAST]


async def test_a_server_without_subscriptions_is_served(store: Store) -> None:
    async with process(store, InMemorySubscriptionBus()) as mailbox:
        published = EventRelay(Server("plain"), mailbox, None)
        with published.collecting():
            async with published.relaying():
                pass
