"""Sweeping expired sessions."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado.sessions import StoreUnavailable
from mcp_tornado.sessions import manager as manager_module
from tests.sessions.helpers import refused

pytestmark = pytest.mark.anyio


async def test_cleanup_removes_expired_sessions_and_no_others(manager, new, clock, sample, store):
    expired = [(await new(manager))[1] for _ in range(3)]
    clock.advance(60)
    live_id, live = await new(manager)
    clock.advance(50)
    assert await manager.cleanup() == 3
    assert [await store.inner.get(session.key) for session in expired] == [None] * 3
    assert await manager.validate(live_id) == live
    assert sample("sessions_closed_total", reason="expired") == 3
    assert await manager.cleanup() == 0
    assert sample("sessions_closed_total", reason="expired") == 3


async def test_cleanup_sweeps_until_no_expired_session_is_left(manager, new, clock, monkeypatch, store, sample):
    monkeypatch.setattr(manager_module, "_SWEEP_BATCH_SIZE", 10)
    for _ in range(35):
        await new(manager)
    clock.advance(110)
    assert await manager.cleanup() == 35
    assert sample("sessions_closed_total", reason="expired") == 35
    assert store.calls["sweep"] == 4


async def test_cleanup_yields_to_the_event_loop_between_two_batches(manager, new, clock, monkeypatch, store):
    monkeypatch.setattr(manager_module, "_SWEEP_BATCH_SIZE", 1)
    for _ in range(20):
        await new(manager)
    clock.advance(110)
    left = []

    async def note_records_in_the_next_turn():
        asyncio.get_running_loop().call_soon(lambda: left.append(len(store.inner._records)))

    store.after["sweep"] = note_records_in_the_next_turn
    assert await manager.cleanup() == 20
    assert len(set(left)) > 10, "callbacks run between the batches"


async def test_a_cleanup_that_fails_counts_the_sessions_that_it_removed(
    manager, new, clock, monkeypatch, store, sample
):
    monkeypatch.setattr(manager_module, "_SWEEP_BATCH_SIZE", 10)
    for _ in range(15):
        await new(manager)
    clock.advance(110)

    async def fail_next_sweep():
        store.fail("sweep", StoreUnavailable())

    store.after["sweep"] = fail_next_sweep
    assert (await refused(manager.cleanup())).code == "STORE_UNAVAILABLE"
    assert sample("sessions_closed_total", reason="expired") == 10
