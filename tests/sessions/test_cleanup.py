"""The sweep on a timer: one at a time, never ended by a failure, waited for at shutdown."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado.sessions import CleanupService, StoreUnavailable
from mcp_tornado.sessions import cleanup as cleanup_module

pytestmark = pytest.mark.anyio

LAST_SUCCESS = "cleanup_last_success_timestamp_seconds"


class FakeTimer:
    """Stands in for Tornado's PeriodicCallback: ticks when the test says so."""

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
    made = []

    def make(*arguments, **options):
        made.append(FakeTimer(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(cleanup_module, "PeriodicCallback", make)
    return made


@pytest.fixture
def service(manager, metrics, timers):
    return CleanupService(manager, 300, metrics=metrics)


@pytest.fixture
def gate(store):
    """Holds every sweep at its start until the gate is opened."""
    opened, entered = asyncio.Event(), asyncio.Event()

    async def wait():
        entered.set()
        await opened.wait()

    store.before["sweep"] = wait
    return opened, entered


async def test_the_timer_is_tornados_with_the_interval_and_jitter(service, timers):
    (timer,) = timers
    assert timer.callback_time == 300_000
    assert 0 < timer.jitter < 1
    assert not timer.running
    service.start()
    assert timer.running
    await service.stop()
    assert not timer.running


async def test_it_sweeps_on_a_real_timer(manager, metrics, store, new, clock):
    await new(manager)
    clock.advance(1000)
    swept = asyncio.Event()

    async def tell():
        swept.set()

    store.after["sweep"] = tell
    service = CleanupService(manager, 0.001, metrics=metrics)
    service.start()
    await asyncio.wait_for(swept.wait(), 10)
    await service.stop()
    assert await store.page(None, 10) == []
    assert len(store.inner._records) == 0


async def test_a_stopped_service_sweeps_no_more(manager, metrics, store, settle):
    swept = asyncio.Event()

    async def tell():
        swept.set()

    store.after["sweep"] = tell
    service = CleanupService(manager, 0.001, metrics=metrics)
    service.start()
    await asyncio.wait_for(swept.wait(), 10)
    await service.stop()
    assert not service._timer.is_running()
    sweeps = store.calls["sweep"]
    await settle()
    assert store.calls["sweep"] == sweeps


async def test_two_sweeps_never_run_at_once(service, timers, store, gate, settle):
    opened, entered = gate
    service.start()
    timers[0].tick()
    await entered.wait()
    timers[0].tick()
    timers[0].tick()
    await settle()
    assert store.calls["sweep"] == 1
    opened.set()
    await settle()
    assert store.calls["sweep"] == 1, "a skipped tick is not made up for"
    timers[0].tick()
    await settle()
    assert store.calls["sweep"] == 2
    await service.stop()


async def test_stopping_waits_for_a_sweep_that_runs(service, timers, gate, settle, sample):
    opened, entered = gate
    service.start()
    timers[0].tick()
    await entered.wait()
    stopping = asyncio.create_task(service.stop())
    await settle()
    assert not stopping.done()
    opened.set()
    await asyncio.wait_for(stopping, 10)
    assert sample(LAST_SUCCESS) > 0, "the sweep came to its end"


async def test_stopping_what_was_never_started_or_twice_is_no_error(service):
    await service.stop()
    service.start()
    await service.stop()
    await service.stop()


@pytest.mark.parametrize("failure", [StoreUnavailable("gone"), OSError("gone"), ZeroDivisionError("a fault")])
async def test_a_failing_store_is_logged_and_counted_and_the_next_tick_sweeps(
    service, timers, store, new, manager, clock, sample, logs, settle, failure
):
    await new(manager)
    clock.advance(1000)
    store.fail("sweep", failure)
    service.start()
    timers[0].tick()
    await settle()
    (line,) = logs.events("store.error")
    assert (line["operation"], line["level"]) == ("sweep", "error")
    assert sample("store_errors_total", operation="sweep") == 1
    assert sample(LAST_SUCCESS) == 0
    assert logs.events("cleanup.finished") == []
    store.before.clear()
    timers[0].tick()
    await settle()
    assert len(store.inner._records) == 0
    assert sample(LAST_SUCCESS) > 0
    await service.stop()


async def test_stopping_during_a_sweep_that_fails_is_no_error(service, timers, store, gate, settle):
    opened, entered = gate
    service.start()
    timers[0].tick()
    await entered.wait()
    stopping = asyncio.create_task(service.stop())
    store.inner.sweep = None  # calling it raises
    opened.set()
    await asyncio.wait_for(stopping, 10)


async def test_a_finished_sweep_is_logged_with_what_it_removed_and_how_long_it_took(service, new, manager, clock, logs):
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
