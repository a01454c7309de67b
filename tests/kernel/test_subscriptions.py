"""The event relay between processes that share a store, and the listeners on their subscription buses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
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

TIMEOUT_SECONDS = 30
EVERY_KIND = [ToolsListChanged(), PromptsListChanged(), ResourcesListChanged(), ResourceUpdated("memo://ä")]
LAST_EVENT = ResourceUpdated("memo://last")


class Store(MemoryStore):
    """A store that can be unavailable for some calls of `append`."""

    failure_count = 0.0
    """How many of the next appends fail."""

    async def append(self, *arguments: Any, **options: Any) -> str:
        if self.failure_count > 0:
            self.failure_count -= 1
            raise StoreUnavailable("the test has made the store unavailable")
        return await super().append(*arguments, **options)


class Listener:
    """A listener on a bus."""

    def __init__(self, bus: InMemorySubscriptionBus) -> None:
        self.events: list[ServerEvent] = []
        self._received = asyncio.Event()
        bus.subscribe(self._receive)

    def _receive(self, event: ServerEvent) -> None:
        self.events.append(event)
        self._received.set()

    async def wait_for(self, event: ServerEvent, count: int = 1) -> list[ServerEvent]:
        """Wait until an event was received this often, and return all received events."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while self.events.count(event) < count:
                    self._received.clear()
                    await self._received.wait()
        except TimeoutError:
            pytest.fail(f"{event} was received {self.events.count(event)} times instead of {count} times")
        return self.events


class DroppedEvents:
    """A log processor that counts the events that the relay reports as dropped."""

    def __init__(self) -> None:
        self.count = 0
        self._reported = asyncio.Event()

    def __call__(self, _: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if line["event"] == "subscriptions.not_told":
            self.count += line["events"]
            self._reported.set()
        return line

    async def wait_for(self, count: int) -> None:
        """Wait until at least this number of events was dropped."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while self.count < count:
                    self._reported.clear()
                    await self._reported.wait()
        except TimeoutError:
            pytest.fail(f"the log reports {self.count} of {count} dropped events")


@pytest.fixture
async def store(anyio_backend: str) -> AsyncGenerator[Store]:
    async with Store(system_clock) as store:
        yield store


def server_on(bus: InMemorySubscriptionBus) -> Server[Any]:
    return Server("publisher", on_subscriptions_listen=ListenHandler(bus))


@asynccontextmanager
async def running_process(store: Store, bus: InMemorySubscriptionBus) -> AsyncGenerator[Mailbox]:
    """Run the parts of a process that relay events."""
    metrics = Metrics("test")
    log = GuardedEventLog(store, StoreGuard(metrics))
    manager = SessionManager(store, SessionRules(), clock=system_clock, metrics=metrics)
    membership = Membership(log, manager, DEFAULT_TIMES, lambda _: None)
    mailbox = Mailbox(log, membership)
    await membership.join()
    await mailbox.start()
    try:
        relay = EventRelay(server_on(bus), mailbox, None)
        with relay.collecting():
            async with relay.relaying():
                yield mailbox
    finally:
        await mailbox.stop()
        await membership.leave()


async def test_published_events_are_received_once_and_in_order_in_every_process(store: Store) -> None:
    buses = [InMemorySubscriptionBus() for _ in range(3)]
    async with running_process(store, buses[0]), running_process(store, buses[1]), running_process(store, buses[2]):
        listeners = [Listener(bus) for bus in buses]
        published = [*EVERY_KIND, *(ResourceUpdated(f"memo://{number}") for number in range(250))]
        for event in published:
            await buses[0].publish(event)
        await listeners[1].wait_for(published[-1])
        await listeners[2].wait_for(published[-1])
        # A repeated event would arrive before this one.
        await buses[1].publish(LAST_EVENT)
        for listener in listeners:
            assert await listener.wait_for(LAST_EVENT) == [*published, LAST_EVENT]


async def test_event_from_another_process_is_not_relayed_again_if_two_processes_share_a_bus(store: Store) -> None:
    """A program that serves the same server twice has such a bus."""
    shared_bus, other_bus = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with (
        running_process(store, shared_bus),
        running_process(store, shared_bus),
        running_process(store, other_bus),
    ):
        shared_listener, other_listener = Listener(shared_bus), Listener(other_bus)
        await other_bus.publish(ToolsListChanged())
        await shared_listener.wait_for(ToolsListChanged(), count=2)
        # A relayed event would arrive before this one, which both processes on the shared bus relay.
        await shared_bus.publish(LAST_EVENT)
        assert await other_listener.wait_for(LAST_EVENT, count=2) == [ToolsListChanged(), LAST_EVENT, LAST_EVENT]


async def test_event_published_just_before_the_relay_ends_is_relayed(store: Store) -> None:
    bus, other_bus = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with running_process(store, other_bus):
        listener = Listener(other_bus)
        async with running_process(store, bus):
            await bus.publish(LAST_EVENT)
        assert await listener.wait_for(LAST_EVENT) == [LAST_EVENT]


async def test_event_published_after_the_relay_has_ended_is_not_relayed(store: Store) -> None:
    bus, other_bus = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with running_process(store, other_bus):
        listener = Listener(other_bus)
        async with running_process(store, bus):
            pass
        await bus.publish(ToolsListChanged())
        async with running_process(store, bus):
            await bus.publish(LAST_EVENT)
        assert await listener.wait_for(LAST_EVENT) == [LAST_EVENT]


async def test_event_of_an_unknown_kind_is_ignored(store: Store) -> None:
    bus, other_bus = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with running_process(store, bus) as mailbox, running_process(store, other_bus):
        listener = Listener(other_bus)
        unknown = {"method": "notifications/newer", "params": {"of": "a newer version"}}
        await mailbox.broadcast(PUBLISHED, {"events": [unknown, {"method": "notifications/tools/list_changed"}]})
        assert await listener.wait_for(ToolsListChanged()) == [ToolsListChanged()]


async def test_short_outage_of_the_store_loses_no_event(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "_RETRY_DELAYS_SECONDS", (0.0, 0.0))
    bus, other_bus = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with running_process(store, bus), running_process(store, other_bus):
        listener = Listener(other_bus)
        store.failure_count = 1
        for event in EVERY_KIND:
            await bus.publish(event)
        assert await listener.wait_for(EVERY_KIND[-1]) == EVERY_KIND


async def test_long_outage_of_the_store_drops_events_for_other_processes_only_and_logs_their_number(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_RETRY_DELAYS_SECONDS", (0.0, 0.0))
    bus, other_bus = InMemorySubscriptionBus(), InMemorySubscriptionBus()
    async with running_process(store, bus), running_process(store, other_bus):
        listener, other_listener = Listener(bus), Listener(other_bus)
        store.failure_count = float("inf")
        dropped = DroppedEvents()
        with capture_logs(processors=[dropped]):
            for event in EVERY_KIND:
                await bus.publish(event)
            assert listener.events == EVERY_KIND
            await dropped.wait_for(4)
        store.failure_count = 0
        await bus.publish(LAST_EVENT)
        assert await other_listener.wait_for(LAST_EVENT) == [LAST_EVENT]


class UserBus(InMemorySubscriptionBus):
    """A bus class of the user. Whether it reaches other processes is the user's decision."""


async def test_bus_of_a_user_class_is_not_relayed(store: Store) -> None:
    user_bus, sdk_bus = UserBus(), InMemorySubscriptionBus()
    async with running_process(store, user_bus), running_process(store, sdk_bus):
        user_listener, sdk_listener = Listener(user_bus), Listener(sdk_bus)
        await user_bus.publish(ToolsListChanged())
        await sdk_bus.publish(PromptsListChanged())
        # A relayed event would have arrived by the time that a later event has reached a third process.
        third_bus = InMemorySubscriptionBus()
        async with running_process(store, third_bus):
            third_listener = Listener(third_bus)
            await sdk_bus.publish(LAST_EVENT)
            await third_listener.wait_for(LAST_EVENT)
        assert user_listener.events == [ToolsListChanged()]
        assert sdk_listener.events == [PromptsListChanged(), LAST_EVENT]


async def test_server_without_subscriptions_can_be_relayed(store: Store) -> None:
    async with running_process(store, InMemorySubscriptionBus()) as mailbox:
        relay = EventRelay(Server("plain"), mailbox, None)
        with relay.collecting():
            async with relay.relaying():
                pass
