"""Named records."""

from __future__ import annotations

import pytest

from mcp_tornado.sessions import ClientInfo, DuplicateSession
from mcp_tornado.sessions.named_records import delete_named, find_named, put_named
from tests.sessions.helpers import refused

pytestmark = pytest.mark.anyio


async def test_a_named_record_is_found_until_it_is_deleted(manager, store):
    client = ClientInfo(remote_addr="192.0.2.1")
    assert await find_named(manager, "a name") is None
    for number in range(2):
        await put_named(manager, "a name", {"n": number}, client=client, principal="ann")
    await put_named(manager, "another", {}, client=client)
    found = await find_named(manager, "a name")
    assert (found.state, found.client, found.principal, found.is_handle) == ({"n": 1}, client, "ann", True)
    assert await delete_named(manager, "a name") is True
    assert await delete_named(manager, "a name") is False
    assert await find_named(manager, "a name") is None
    assert await manager.count() == 1


async def test_a_read_keeps_a_named_record_alive_and_writes_only_after_the_touch_interval(manager, store, clock):
    await put_named(manager, "a name", {}, client=ClientInfo())
    for _ in range(9):
        clock.advance(5)
        assert await find_named(manager, "a name") is not None
    assert store.calls["touch"] == 4
    clock.advance(111)
    assert await find_named(manager, "a name") is None


async def test_a_put_ends_as_a_conflict_if_the_record_can_be_neither_updated_nor_created(manager, store):
    store.fail("create", DuplicateSession())
    error = await refused(put_named(manager, "a name", {}, client=ClientInfo()))
    assert error.code == "SESSION_CONFLICT"
