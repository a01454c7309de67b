"""The caps on the number of sessions."""

from __future__ import annotations

import pytest

from tests.sessions.helpers import refused

pytestmark = pytest.mark.anyio


async def test_the_cap_on_sessions_answers_503_with_retry_after(make_manager, new):
    manager = make_manager(max_sessions=2)
    await new(manager)
    await new(manager, principal="someone")
    error = await refused(new(manager))
    assert (error.code, error.status) == ("SESSION_LIMIT_REACHED", 503)
    assert error.retry_after
    assert await manager.count() == 2


async def test_the_cap_per_principal_answers_429_and_does_not_affect_others(make_manager, new):
    manager = make_manager(max_per_principal=1)
    await new(manager, principal="one")
    error = await refused(new(manager, principal="one"))
    assert (error.code, error.status) == ("SESSION_LIMIT_REACHED", 429)
    assert error.retry_after
    await new(manager, principal="two")
    for _ in range(3):
        await new(manager)
    assert await manager.count("one") == 1


async def test_an_ended_session_does_not_count(make_manager, new):
    manager = make_manager(max_sessions=1, max_per_principal=1)
    _, session = await new(manager, principal="one")
    await manager.terminate(session.key)
    await new(manager, principal="one")


async def test_an_expired_session_does_not_count_before_it_is_swept(make_manager, new, clock):
    manager = make_manager(max_sessions=1, max_per_principal=1, idle_timeout=100, touch_interval=10)
    await new(manager, principal="one")
    clock.advance(110)
    await new(manager, principal="one")


async def test_a_cap_of_0_means_no_limit(make_manager, new, store):
    manager = make_manager(max_sessions=0, max_per_principal=0)
    for _ in range(20):
        await new(manager, principal="one")
    assert store.calls["count"] == 0
