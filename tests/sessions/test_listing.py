"""Counting and listing sessions."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.anyio


async def test_ended_and_expired_sessions_are_neither_counted_nor_listed(manager, new, clock):
    await new(manager, principal="one")
    clock.advance(60)
    _, ended = await new(manager, principal="one")
    live = [(await new(manager, principal=principal))[1] for principal in ("one", "two", None)]
    await manager.terminate(ended.key)
    clock.advance(50)
    assert await manager.count() == 3
    assert (await manager.count("one"), await manager.count("two"), await manager.count("nobody")) == (1, 1, 0)
    assert await manager.page() == sorted(live, key=lambda session: session.key)


async def test_pages_follow_each_other_in_key_order(manager, new):
    keys = sorted([(await new(manager))[1].key for _ in range(7)])
    first = await manager.page(limit=3)
    second = await manager.page(first[-1].key, 3)
    third = await manager.page(second[-1].key, 3)
    assert [session.key for session in [*first, *second, *third]] == keys
    assert len(third) == 1
    assert await manager.page(third[-1].key, 3) == []
