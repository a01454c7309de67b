"""State of a FastMCP server that outlives requests: it is stored in named records, like the state behind a handle."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado import state
from mcp_tornado.hosting.context import session_context, sessionless_context
from mcp_tornado.hosting.fastmcp_state import FastMCPState
from mcp_tornado.sessions import ErrorCode, SessionError
from mcp_tornado.sessions.ids import named_key
from tests.hosting.fastmcp_values import INBOUND, value

pytestmark = pytest.mark.anyio


async def test_record_is_shared_by_all_requests_and_processes(fastmcp_state, manager, make_manager, session):
    keys = ["session:anon:1", "user:abc:_visibility_rules", "session:anon:ä\n\udcff"]
    with sessionless_context(manager, INBOUND):
        for key in keys:
            assert await fastmcp_state.get(key) is None
            await fastmcp_state.put(key, value(key[:9]))
            await fastmcp_state.put(key, value([key[:9]]))
    with session_context(make_manager(), session):
        for key in keys:
            assert await FastMCPState("").get(key) == value([key[:9]])
            assert await FastMCPState("another").get(key) is None
            assert await fastmcp_state.delete(key) is True
            assert await fastmcp_state.delete(key) is False
            assert await fastmcp_state.get(key) is None


async def test_record_lives_while_it_is_used_and_until_its_lifetime_ends(fastmcp_state, manager, clock):
    with sessionless_context(manager, INBOUND):
        await fastmcp_state.put("session:anon:1", value(1))
        for _ in range(9):
            clock.advance(100)
            assert await fastmcp_state.get("session:anon:1") == value(1)
        clock.advance(100)
        assert await fastmcp_state.get("session:anon:1") is None
    with sessionless_context(manager, INBOUND):
        await fastmcp_state.put("session:anon:1", value(2))  # before a sweep removes the first record
        assert await fastmcp_state.get("session:anon:1") == value(2)
        clock.advance(111)
        assert await fastmcp_state.get("session:anon:1") is None


async def test_record_that_another_request_has_ended_is_not_created_again(fastmcp_state, manager, make_manager):
    key = "session:anon:1"
    with sessionless_context(manager, INBOUND):
        await fastmcp_state.put(key, value(1))
    with sessionless_context(manager, INBOUND):
        assert await fastmcp_state.get(key) == value(1)
        with sessionless_context(make_manager(), INBOUND):
            assert await fastmcp_state.delete(key) is True
        for _ in range(2):
            with pytest.raises(SessionError) as raised:
                await fastmcp_state.put(key, value(2))
            assert raised.value.code is ErrorCode.SESSION_NOT_FOUND
            assert await fastmcp_state.get(key) is None


async def test_record_that_this_request_has_created_is_not_created_again_after_another_request_has_ended_it(
    fastmcp_state, manager, make_manager
):
    with sessionless_context(manager, INBOUND):
        await fastmcp_state.put("session:anon:1", value(1))
        with sessionless_context(make_manager(), INBOUND):
            assert await fastmcp_state.delete("session:anon:1") is True
        with pytest.raises(SessionError) as raised:
            await fastmcp_state.put("session:anon:1", value(2))
    assert raised.value.code is ErrorCode.SESSION_NOT_FOUND


async def test_record_that_this_request_has_ended_can_be_created_again(fastmcp_state, manager):
    with sessionless_context(manager, INBOUND):
        await fastmcp_state.put("user:abc:", value(1))
        assert await fastmcp_state.get("user:abc:") == value(1)
        assert await fastmcp_state.delete("user:abc:") is True
        await fastmcp_state.put("user:abc:", value(2))
        assert await fastmcp_state.get("user:abc:") == value(2)


async def test_record_counts_once_towards_the_limit_of_sessions(fastmcp_state, make_manager):
    with sessionless_context(make_manager(max_sessions=1), INBOUND):
        for number in range(3):
            await fastmcp_state.put("session:anon:1", value(number))
        with pytest.raises(SessionError) as raised:
            await fastmcp_state.put("session:anon:2", value(1))
    assert raised.value.code is ErrorCode.SESSION_LIMIT_REACHED


async def test_requests_that_create_a_record_at_the_same_time_create_one(fastmcp_state, make_manager):
    async def put(number):
        with sessionless_context(make_manager(), INBOUND):
            await fastmcp_state.put("session:anon:1", value(number))

    await asyncio.gather(*(put(number) for number in range(20)))
    with sessionless_context(make_manager(), INBOUND):
        assert (await fastmcp_state.get("session:anon:1"))["value"] in range(20)
        assert await make_manager().count() == 1


async def test_record_cannot_be_opened_as_a_handle_or_a_session(fastmcp_state, manager, store):
    with sessionless_context(manager, INBOUND):
        await fastmcp_state.put("session:anon:1", value(1))
        (record,) = await store.page(None, 10)
        assert record.is_handle
        for name in ("session:anon:1", "fastmcp \nsession:anon:1", record.key):
            with pytest.raises(state.StateNotFound):
                await state.open(name)
            with pytest.raises(SessionError):
                await manager.validate(name)
        assert record.key == named_key("fastmcp \nsession:anon:1")
