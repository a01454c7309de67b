"""Ending sessions."""

from __future__ import annotations

import pytest

from tests.sessions.helpers import refused

pytestmark = pytest.mark.anyio


async def test_an_ended_session_is_not_found(manager, new, sample, logs):
    session_id, session = await new(manager)
    assert await manager.terminate(session.key)
    assert (await refused(manager.validate(session_id))).code == "SESSION_NOT_FOUND"
    assert await manager.find(session.key) is None
    assert await manager.count() == 0
    assert sample("sessions_closed_total", reason="deleted") == 1
    (line,) = logs.events("session.terminated")
    assert (line["session"], line["reason"]) == (session.key[:8], "deleted")


async def test_a_session_can_be_ended_twice_and_counts_once(manager, new, sample, logs):
    _, session = await new(manager)
    assert await manager.terminate(session.key, "revoked")
    assert not await manager.terminate(session.key, "revoked")
    assert sample("sessions_closed_total", reason="revoked") == 1
    assert len(logs.events("session.terminated")) == 1


async def test_nothing_resurrects_an_ended_session(manager, new, clock):
    session_id, session = await new(manager)
    clock.advance(50)
    await manager.terminate(session.key)
    assert not await manager.refresh(session)
    assert (await refused(manager.update_state(session.key, lambda state: state.update(a=1)))).code == (
        "SESSION_NOT_FOUND"
    )
    assert (await refused(manager.update(session.key, lambda _: {"initialized": True}))).code == "SESSION_NOT_FOUND"
    assert (await refused(manager.validate(session_id))).code == "SESSION_NOT_FOUND"
    assert await manager.page() == []


async def test_a_session_that_ends_during_an_update_stays_ended(manager, new, store):
    session_id, session = await new(manager)

    async def end_session():
        await store.inner.delete(session.key)

    store.before["update"] = end_session
    assert (await refused(manager.update_state(session.key, lambda state: state.update(a=1)))).code == (
        "SESSION_NOT_FOUND"
    )
    assert (await refused(manager.validate(session_id))).code == "SESSION_NOT_FOUND"


async def test_a_session_that_ends_during_a_refresh_stays_ended(manager, new, store, clock):
    session_id, session = await new(manager)

    async def end_session():
        await store.inner.delete(session.key)

    store.before["touch"] = end_session
    clock.advance(50)
    assert not await manager.refresh(session)
    assert (await refused(manager.validate(session_id))).code == "SESSION_NOT_FOUND"


async def test_an_expired_session_cannot_be_changed_or_refreshed(manager, new, clock):
    session_id, session = await new(manager)
    clock.advance(110)
    assert not await manager.refresh(session)
    assert (await refused(manager.update_state(session.key, lambda state: state.update(a=1)))).code == (
        "SESSION_NOT_FOUND"
    )
    assert (await refused(manager.validate(session_id))).code == "SESSION_EXPIRED"
