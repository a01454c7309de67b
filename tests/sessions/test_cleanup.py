"""The periodic sweep: one sweep at a time, also after a failure; a stop waits for a running sweep."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado.sessions import CleanupService, StoreUnavailable
from mcp_tornado.sessions import cleanup as cleanup_module
from mcp_tornado.testing.base import deadline

pytestmark = pytest.mark.anyio

LAST_SUCCESS = "cleanup_last_success_timestamp_seconds"


class FakeTimer:
    """A replacement for Tornado's PeriodicCallback that ticks when the test calls `tick`."""

    def __init__(self, callback, callback_time, jitter=0):
        self.callback, self.callback_time, self.jitter = callback, callback_time, jitter
        self.running = False

    def start(self):
        self.running = True

    def stop(self):
        self.running = False

    def tick(self):
        if self.running:
            self.callback()


@pytest.fixture
def timers(monkeypatch):
    """The timers that were created."""
    created = []

    def create(*arguments, **options):
        created.append(FakeTimer(*arguments, **options))
        return created[-1]

    monkeypatch.setattr(cleanup_module, "PeriodicCallback", create)
    return created


@pytest.fixture
def service(manager, metrics, timers):
    return CleanupService(manager, 300, metrics=metrics)


@pytest.fixture
def gate(store):
    """Blocks every sweep at its start. Returns the event that lets sweeps go on, and the event of a started sweep."""
    opened, entered = asyncio.Event(), asyncio.Event()

    async def wait():
        entered.set()
        await opened.wait()

    store.before["sweep"] = wait
    return opened, entered


async def sweep_has_ended(service):
    async with deadline("the sweep has not ended"):
        await service._running


async def test_the_timer_has_the_interval_and_a_jitter(service, timers):
    (timer,) = timers
    assert timer.callback_time == 300_000
    assert 0 < timer.jitter < 1
    assert not timer.running
    service.start()
    assert timer.running
    await service.stop()
    assert not timer.running


async def test_a_service_with_a_real_timer_sweeps(manager, metrics, store, new, clock):
    await new(manager)
    clock.advance(1000)
    swept = asyncio.Event()

    async def note_sweep():
        swept.set()

    store.after["sweep"] = note_sweep
    service = CleanupService(manager, 0.001, metrics=metrics)
    service.start()
    async with deadline("no sweep has run"):
        await swept.wait()
    await service.stop()
    assert await store.page(None, 10) == []
    assert len(store.inner._records) == 0


async def test_a_stopped_service_does_not_sweep(manager, metrics, store):
    swept = asyncio.Event()

    async def note_sweep():
        swept.set()

    store.after["sweep"] = note_sweep
    service = CleanupService(manager, 0.001, metrics=metrics)
    service.start()
    async with deadline("no sweep has run"):
        await swept.wait()
    await service.stop()
    assert not service._timer.is_running()
    sweeps = store.calls["sweep"]
    await asyncio.sleep(0.01)  # ten intervals
    assert store.calls["sweep"] == sweeps


async def test_two_sweeps_never_run_at_the_same_time(service, timers, store, gate):
    opened, entered = gate
    service.start()
    timers[0].tick()
    async with deadline("no sweep has started"):
        await entered.wait()
    timers[0].tick()
    timers[0].tick()
    await asyncio.sleep(0)  # a second sweep would start now
    assert store.calls["sweep"] == 1
    opened.set()
    await sweep_has_ended(service)
    assert store.calls["sweep"] == 1, "a skipped tick causes no sweep later"
    timers[0].tick()
    await sweep_has_ended(service)
    assert store.calls["sweep"] == 2
    await service.stop()


async def test_a_stop_waits_for_a_running_sweep(service, timers, gate, sample):
    opened, entered = gate
    service.start()
    timers[0].tick()
    async with deadline("no sweep has started"):
        await entered.wait()
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0)
    assert not timers[0].running, "the stop has begun"
    assert not stopping.done()
    opened.set()
    async with deadline("the stop has not ended"):
        await stopping
    assert sample(LAST_SUCCESS) > 0, "the sweep has ended"


async def test_a_service_can_be_stopped_before_its_start_and_twice(service):
    await service.stop()
    service.start()
    await service.stop()
    await service.stop()


@pytest.mark.parametrize("failure", [StoreUnavailable("gone"), OSError("gone"), ZeroDivisionError("unexpected")])
async def test_a_failing_store_is_logged_and_counted_and_the_next_tick_sweeps(
    service, timers, store, new, manager, clock, sample, logs, failure
):
    await new(manager)
    clock.advance(1000)
    store.fail("sweep", failure)
    service.start()
    timers[0].tick()
    await sweep_has_ended(service)
    (line,) = logs.events("store.error")
    assert (line["operation"], line["level"]) == ("sweep", "error")
    assert sample("store_errors_total", operation="sweep") == 1
    assert sample(LAST_SUCCESS) == 0
    assert logs.events("cleanup.finished") == []
    store.before.clear()
    timers[0].tick()
    await sweep_has_ended(service)
    assert len(store.inner._records) == 0
    assert sample(LAST_SUCCESS) > 0
    await service.stop()


async def test_a_stop_during_a_sweep_that_fails_raises_nothing(service, timers, store, gate):
    opened, entered = gate
    service.start()
    timers[0].tick()
    async with deadline("no sweep has started"):
        await entered.wait()
    stopping = asyncio.create_task(service.stop())
    store.inner.sweep = None  # calling it raises
    opened.set()
    async with deadline("the stop has not ended"):
        await stopping


async def test_a_sweep_is_logged_with_the_number_of_removed_sessions_and_its_duration(
    service, new, manager, clock, logs
):
    for _ in range(3):
        await new(manager)
    clock.advance(1000)
    await service.sweep()
    (line,) = logs.events("cleanup.finished")
    assert line["removed"] == 3
    assert line["level"] == "info"
    assert isinstance(line["seconds"], float)


async def test_the_last_success_is_a_unix_time(service, sample, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1234567890.5)
    await service.sweep()
    assert sample(LAST_SUCCESS) == 1234567890.5
