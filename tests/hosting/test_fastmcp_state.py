"""State of a FastMCP server that belongs to a session, to one message, or to the process."""

from __future__ import annotations

import asyncio

import pytest
from key_value.aio.protocols import AsyncKeyValue

from mcp_tornado import state
from mcp_tornado.hosting.context import session_context, sessionless_context
from mcp_tornado.hosting.fastmcp_state import FastMCPState
from mcp_tornado.sessions import ClientInfo, ErrorCode, SessionError, StateTooLarge
from tests.hosting.fastmcp_values import INBOUND, VISIBILITY_RULES, rule, value

pytestmark = pytest.mark.anyio


def test_fastmcp_state_has_the_interface_that_fastmcp_requires(fastmcp_state):
    assert isinstance(fastmcp_state, AsyncKeyValue)


# ---------------------------------------------------------------- state of a session


async def test_session_state_is_shared_by_all_requests_and_processes(fastmcp_state, manager, make_manager, session):
    key = f"{session.key}:n:1"
    with session_context(manager, session):
        assert await fastmcp_state.get(key) is None
        await fastmcp_state.put(key, value(1), ttl=86_400)
        assert await fastmcp_state.get(key) == value(1)
    with session_context(make_manager(), session):
        assert await FastMCPState("").get(key) == value(1)
        assert await FastMCPState("another").get(key) is None
        assert await fastmcp_state.delete(key) is True
    with session_context(manager, session):
        assert await fastmcp_state.get(key) is None
        assert await fastmcp_state.delete(key) is False


async def test_operations_with_several_keys_do_the_same_as_with_one(fastmcp_state, manager, session):
    keys = [f"{session.key}:{name}" for name in "ab"]
    with session_context(manager, session):
        await fastmcp_state.put_many(keys, [value(1), value(2)], ttl=1)
        assert await fastmcp_state.get_many([*keys, f"{session.key}:c"]) == [value(1), value(2), None]
        assert await fastmcp_state.ttl(keys[0]) == (value(1), None)
        assert await fastmcp_state.ttl_many(keys) == [(value(1), None), (value(2), None)]
        assert await fastmcp_state.delete_many([*keys, *keys]) == 2


async def test_session_state_lives_as_long_as_the_session(fastmcp_state, make_manager, clock):
    manager = make_manager(idle_timeout=1_000_000, lifetime=0)
    _, session = await manager.create(client=ClientInfo(), protocol_version="2025-11-25", client_params={})
    key = f"{session.key}:n"
    with session_context(manager, session):
        await fastmcp_state.put(key, value(1), ttl=86_400)
        clock.advance(100_000)
        assert await fastmcp_state.get(key) == value(1)
        await manager.terminate(session.key)
        for operation in (fastmcp_state.get(key), fastmcp_state.put(key, value(1)), fastmcp_state.delete(key)):
            with pytest.raises(SessionError, match="Session not found"):
                await operation


async def test_stored_value_is_a_copy(fastmcp_state, manager, session):
    for key in (f"{session.key}:n", f"{session.key}:{VISIBILITY_RULES}", "session:anon:x", "made-up:n"):
        original = value([rule("a")])
        with session_context(manager, session):
            await fastmcp_state.put(key, original)
            original["value"].append(1)
            for _ in range(2):
                (await fastmcp_state.get(key))["value"].append(2)
            assert await fastmcp_state.get(key) == value([rule("a")])


async def test_visibility_rules_are_read_without_a_store_operation(fastmcp_state, manager, store, session):
    key = f"{session.key}:{VISIBILITY_RULES}"
    with session_context(manager, session):
        await fastmcp_state.put(key, value([rule("a")]))
        store.operation_counts.clear()
        assert await fastmcp_state.get(key) == value([rule("a")])
        assert store.operation_counts == {}
    with session_context(manager, await manager.find(session.key)):
        store.operation_counts.clear()
        assert await fastmcp_state.get(key) == value([rule("a")])
        assert store.operation_counts == {}


async def test_visibility_rules_that_two_requests_add_at_the_same_time_are_merged(fastmcp_state, manager, session):
    key = f"{session.key}:{VISIBILITY_RULES}"
    with session_context(manager, session) as first_context:
        await fastmcp_state.put(key, value([rule("a")]))
        with session_context(manager, session):  # a request that has read the session before the first rule
            assert await fastmcp_state.get(key) is None
            await fastmcp_state.put(key, value([rule("b")]))
            assert await fastmcp_state.get(key) == value([rule("a"), rule("b")])
        assert first_context.session is not None
        await fastmcp_state.put(key, value([rule("a"), rule("c")]))
        assert await fastmcp_state.get(key) == value([rule("a"), rule("b"), rule("c")])
        await fastmcp_state.put(key, value([rule("a"), rule("b"), rule("c"), rule("a", enabled=True)]))
        assert await fastmcp_state.get(key) == value([rule("b"), rule("c"), rule("a", enabled=True)])
        await fastmcp_state.put(key, value([]))
        assert await fastmcp_state.get(key) == value([])


async def test_concurrent_changes_of_session_state_are_all_stored(fastmcp_state, manager, make_manager, session):
    async def put(number):
        with session_context(make_manager(), session):
            await fastmcp_state.put(f"{session.key}:{number}", value(number))
            await fastmcp_state.put(f"{session.key}:{VISIBILITY_RULES}", value([rule(str(number))]))

    await asyncio.gather(*(put(number) for number in range(30)))
    with session_context(manager, await manager.find(session.key)):
        for number in range(30):
            assert await fastmcp_state.get(f"{session.key}:{number}") == value(number)
        rules = (await fastmcp_state.get(f"{session.key}:{VISIBILITY_RULES}"))["value"]
    assert sorted(int(each["names"][0]) for each in rules) == list(range(30))


async def test_session_state_is_separate_from_the_state_of_the_application(fastmcp_state, manager, session):
    with session_context(manager, session):
        await fastmcp_state.put(f"{session.key}:n", value(1))
        assert await state.current().update(lambda data: data.update(n=2)) == {"n": 2}
        await state.current().update(dict.clear)
        assert await fastmcp_state.get(f"{session.key}:n") == value(1)


@pytest.mark.parametrize("key", ["{session}:n", "made-up:n", "session:anon:x"])
async def test_value_that_is_too_large_or_not_json_is_refused(fastmcp_state, make_manager, session, key):
    key = key.format(session=session.key)
    with session_context(make_manager(max_state_bytes=60), session):
        await fastmcp_state.put(key, value("x"))
        with pytest.raises(StateTooLarge, match=r"sessions\.max_state_bytes allows 60"):
            await fastmcp_state.put(key, value("x" * 60))
        with pytest.raises((TypeError, ValueError)):
            await fastmcp_state.put(key, value(object()))
        assert await fastmcp_state.get(key) == value("x")


@pytest.mark.parametrize("key", ["{session}:n", "session:anon:x"])
async def test_unavailable_store_is_reported(fastmcp_state, manager, store, session, key):
    key = key.format(session=session.key)
    with session_context(manager, session):
        store.is_available = False
        for operation in (fastmcp_state.get(key), fastmcp_state.put(key, value(1))):
            with pytest.raises(SessionError) as raised:
                await operation
            assert raised.value.code is ErrorCode.STORE_UNAVAILABLE


# ---------------------------------------------------------------- state of one message, and outside of any message


async def test_transient_state_ends_with_its_message_and_is_never_stored(fastmcp_state, manager, store, session):
    for context in (session_context(manager, session), sessionless_context(manager, INBOUND)):
        with context:
            store.operation_counts.clear()
            await fastmcp_state.put("made-up:n", value(1))
            await fastmcp_state.put(f"made-up:{VISIBILITY_RULES}", value([rule("a")]))
            assert await fastmcp_state.get("made-up:n") == value(1)
            assert await fastmcp_state.get(f"made-up:{VISIBILITY_RULES}") == value([rule("a")])
            assert await fastmcp_state.get("another:n") is await FastMCPState("other").get("made-up:n") is None
            assert await fastmcp_state.delete("made-up:n") is True
            assert await fastmcp_state.delete("made-up:n") is False
            assert store.operation_counts == {}
        with sessionless_context(manager, INBOUND):
            assert await fastmcp_state.get(f"made-up:{VISIBILITY_RULES}") is None


async def test_session_state_cannot_be_reached_from_outside_of_the_session(fastmcp_state, manager, session):
    with session_context(manager, session):
        await fastmcp_state.put(f"{session.key}:n", value(1))
    with sessionless_context(manager, INBOUND):
        assert await fastmcp_state.get(f"{session.key}:n") is None
        await fastmcp_state.put(f"{session.key}:n", value(2))
        assert await fastmcp_state.delete(f"{session.key}:n") is True
    with session_context(manager, session):
        assert await fastmcp_state.get(f"{session.key}:n") == value(1)


async def test_state_outside_of_a_request_stays_in_memory(fastmcp_state, manager, session):
    key = f"{session.key}:n"
    await fastmcp_state.put(key, value(1), collection="c", ttl=100)
    assert await fastmcp_state.get(key, collection="c") == value(1)
    with session_context(manager, session):
        assert await fastmcp_state.get(key, collection="c") is None
    assert await fastmcp_state.delete(key, collection="c") is True
    assert await fastmcp_state.get(key, collection="c") is None
