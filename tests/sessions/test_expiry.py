"""How long sessions live, and how a use keeps them alive."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import ClientInfo, SessionError, SessionManager, SessionRules
from mcp_tornado.stores.memory import MemoryStore
from tests.sessions.helpers import refused

pytestmark = pytest.mark.anyio


@pytest.fixture
def fresh_clock(clock):
    return type(clock)


async def test_a_session_expires_exactly_at_its_expiry(manager, new, clock):
    session_id, session = await new(manager)
    clock.advance((session.expires_at - clock()).total_seconds() - 0.000001)
    assert (await manager.validate(session_id)).key == session.key
    clock.advance(microseconds=1)
    error = await refused(manager.validate(session_id))
    assert (error.code, error.status) == ("SESSION_EXPIRED", 404)


async def test_expiry_is_the_idle_timeout_and_one_touch_interval_after_the_last_write(manager, new, clock):
    session_id, session = await new(manager)
    assert (session.expires_at - clock()).total_seconds() == 110
    clock.advance(50)
    await manager.refresh(session)
    session = await manager.validate(session_id)
    assert (session.expires_at - clock()).total_seconds() == 110
    assert session.last_seen_at == clock()


async def test_the_lifetime_ends_a_session_that_is_in_use(make_manager, new, clock):
    manager = make_manager(idle_timeout=100, lifetime=250, touch_interval=10)
    session_id, _ = await new(manager)
    for _ in range(4):
        clock.advance(60)
        assert await manager.refresh(await manager.validate(session_id))
    clock.advance(9.999999)
    session = await manager.validate(session_id)
    assert await manager.refresh(session)
    clock.advance(microseconds=1)
    assert (await refused(manager.validate(session_id))).code == "SESSION_EXPIRED"
    assert not await manager.refresh(session)


async def test_a_lifetime_shorter_than_the_idle_timeout_bounds_the_first_expiry(make_manager, new, clock):
    manager = make_manager(idle_timeout=100, lifetime=40)
    _, session = await new(manager)
    assert (session.expires_at - clock()).total_seconds() == 40


async def test_a_lifetime_of_0_means_no_limit(make_manager, new, clock):
    manager = make_manager(idle_timeout=100, lifetime=0)
    session_id, _ = await new(manager)
    for _ in range(100):
        clock.advance(99)
        assert await manager.refresh(await manager.validate(session_id))


@settings(database=None, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps=st.lists(st.tuples(st.floats(0, 99.999), st.booleans()), max_size=30),
    touch_interval=st.sampled_from([0, 1, 5, 10, 30, 1000]),
)
def test_no_session_expires_before_its_idle_timeout_for_any_pattern_of_use(gaps, touch_interval, fresh_clock):
    clock = fresh_clock()

    async def use():
        writes = []
        async with MemoryStore(clock) as store:
            touch = store.touch

            async def noted_touch(key, last_seen_at, expires_at):
                writes.append(clock())
                return await touch(key, last_seen_at, expires_at)

            store.touch = noted_touch
            rules = SessionRules(idle_timeout=100, lifetime=0, touch_interval=touch_interval)
            manager = SessionManager(store, rules, clock=clock, metrics=Metrics("0"))
            session_id, first = await manager.create(
                client=ClientInfo(), protocol_version="2025-11-25", client_params={}
            )
            writes.append(clock())
            for gap, is_stale in gaps:
                clock.advance(gap)
                session = await manager.validate(session_id)
                assert await manager.refresh(first if is_stale else session)
            clock.advance(99.999999)
            await manager.validate(session_id)
            clock.advance(min(touch_interval, 10) + 0.000001)
            with pytest.raises(SessionError, match="expired"):
                await manager.validate(session_id)
        if not any(is_stale for _, is_stale in gaps):
            interval = min(touch_interval, 10)
            pauses = [(later - earlier).total_seconds() for earlier, later in pairwise(writes)]
            assert all(pause >= interval for pause in pauses)

    asyncio.run(use())


async def test_a_refresh_writes_only_after_the_touch_interval(manager, new, store, clock):
    session_id, _ = await new(manager)
    store.calls.clear()
    clock.advance(9.999999)
    assert await manager.refresh(await manager.validate(session_id))
    assert store.writes == 0
    clock.advance(microseconds=1)
    assert await manager.refresh(await manager.validate(session_id))
    assert store.writes == store.calls["touch"] == 1
    assert await manager.refresh(await manager.validate(session_id))
    assert store.writes == 1


async def test_a_session_in_use_is_written_once_per_touch_interval(manager, new, store, clock):
    session_id, _ = await new(manager)
    store.calls.clear()
    for _ in range(600):
        clock.advance(0.1)
        await manager.refresh(await manager.validate(session_id))
    assert store.writes == 6


async def test_the_touch_interval_is_at_most_a_tenth_of_the_idle_timeout(make_manager, new, store, clock):
    manager = make_manager(idle_timeout=100, touch_interval=90)
    session_id, session = await new(manager)
    assert (session.expires_at - clock()).total_seconds() == 110
    clock.advance(10)
    await manager.refresh(await manager.validate(session_id))
    assert store.calls["touch"] == 1
    assert manager.keepalive_interval == 10


async def test_the_keepalive_interval_is_at_least_the_touch_interval_and_never_0(make_manager):
    assert make_manager(idle_timeout=3600, touch_interval=30).keepalive_interval == 30
    assert make_manager(idle_timeout=3600, touch_interval=0).keepalive_interval == 1
    assert make_manager(idle_timeout=1, touch_interval=0).keepalive_interval == 0.1


async def test_a_refresh_that_writes_is_logged_at_debug(manager, new, clock, logs):
    _, session = await new(manager)
    await manager.refresh(session)
    assert logs.events("session.refreshed") == []
    clock.advance(10)
    await manager.refresh(session)
    (line,) = logs.events("session.refreshed")
    assert (line["session"], line["level"]) == (session.key[:8], "debug")


async def test_a_process_whose_clock_is_behind_does_not_shorten_a_session(manager, store, new, clock, metrics):
    session_id, old = await new(manager)
    behind = clock.advance(20)
    clock.advance(30)
    await manager.refresh(await manager.validate(session_id))
    newest = await manager.validate(session_id)
    rules = SessionRules(idle_timeout=100, lifetime=1000, touch_interval=10)
    other = SessionManager(store, rules, clock=lambda: behind, metrics=metrics)
    assert await other.refresh(old), "the session is still alive"
    assert await manager.validate(session_id) == newest
