"""The state of a session."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado import state
from mcp_tornado.hosting.context import session_context, sessionless_context
from mcp_tornado.sessions import ErrorCode, RevisionConflict, SessionError
from mcp_tornado.testing.base import deadline
from tests.state.helpers import INBOUND, count

pytestmark = pytest.mark.anyio


async def test_there_is_no_state_outside_of_a_request():
    with pytest.raises(state.NoSession):
        state.current()
    with pytest.raises(state.NoSession):
        await state.create()
    with pytest.raises(state.NoSession):
        await state.open("x")
    with pytest.raises(state.NoSession):
        await asyncio.to_thread(state.create_sync)
    with pytest.raises(state.NoSession):
        await asyncio.to_thread(state.open_sync, "x")


async def test_a_request_without_a_session_gets_an_error_that_names_state_create(manager):
    with sessionless_context(manager, INBOUND), pytest.raises(state.NoSession, match=r"state\.create"):
        state.current()


async def test_only_a_task_that_a_handler_starts_has_the_state_of_its_request(manager, session):
    async def update_state():
        return await state.current().update(count)

    with session_context(manager, session):
        task = asyncio.create_task(update_state())
    with pytest.raises(state.NoSession):
        state.current()
    assert await task == {"n": 1}


async def test_data_is_a_copy(manager, session):
    with session_context(manager, session):
        s = state.current()
        await s.update(lambda data: data.update(cart=["tea"]))
        s.data["cart"].append("milk")
        s.data["more"] = True
        assert s.data == {"cart": ["tea"]}
        assert await s.read() == {"cart": ["tea"]}
        (await s.read())["cart"].append("milk")
        assert s.data == {"cart": ["tea"]}


async def test_an_update_returns_the_new_data_and_current_has_it_afterwards(manager, session):
    with session_context(manager, session):
        assert state.current().data == {}
        assert await state.current().update(count) == {"n": 1}
        assert state.current().data == {"n": 1}
        assert await state.current().update(count) == {"n": 2}


async def test_reads_and_updates_see_what_another_process_has_stored(manager, make_manager, session):
    other = make_manager()
    with session_context(manager, session):
        s = state.current()
        await other.update_state(session.key, count)
        assert s.data == {}
        assert await s.read() == {"n": 1}
        assert s.data == {"n": 1}
        await other.update_state(session.key, count)
        assert await s.update(count) == {"n": 3}


async def test_the_return_value_of_the_function_is_ignored(manager, session):
    with session_context(manager, session):
        assert await state.current().update(lambda data: {"not": "this"}) == {}
        assert await state.current().update(lambda data: data.setdefault("a", 1)) == {"a": 1}


async def test_an_exception_of_the_function_reaches_the_caller_and_nothing_is_stored(manager, session):
    def fail(data):
        data["n"] = 99
        raise LookupError("failed")

    with session_context(manager, session):
        s = state.current()
        await s.update(count)
        with pytest.raises(LookupError, match="failed"):
            await s.update(fail)
        assert s.data == await s.read() == {"n": 1}


async def test_the_function_is_called_again_after_a_conflict(manager, session, store, monkeypatch):
    given = []
    update, concurrent_values = store.update, [10, 20]

    async def update_second(key, changes, expected_revision):
        if concurrent_values:
            await update(key, {"state": {"n": concurrent_values.pop(0)}}, expected_revision)
            raise RevisionConflict
        return await update(key, changes, expected_revision)

    def count_and_note(data):
        given.append(data.get("n", 0))
        count(data)

    monkeypatch.setattr(store, "update", update_second)
    with session_context(manager, session):
        assert await state.current().update(count_and_note) == {"n": 21}
    assert given == [0, 10, 20]


async def test_a_coroutine_function_is_refused(manager, session):
    async def change(data):
        data["n"] = 1

    with session_context(manager, session):
        with pytest.raises(TypeError, match="plain function"):
            await state.current().update(change)
        assert await state.current().read() == {}


async def test_a_state_that_is_too_large_is_refused_and_changes_nothing(make_manager, session):
    manager = make_manager(max_state_bytes=20)
    with session_context(manager, session):
        s = state.current()
        await s.update(lambda data: data.update(a="x" * 12))
        with pytest.raises(state.StateTooLarge):
            await s.update(lambda data: data.update(a="x" * 13))
        assert await s.read() == {"a": "x" * 12}


async def test_a_state_that_is_not_json_is_refused_and_changes_nothing(manager, session):
    with session_context(manager, session):
        with pytest.raises(TypeError):
            await state.current().update(lambda data: data.update(when=object()))
        assert await state.current().read() == {}


async def test_the_state_of_an_ended_session_raises_no_session(manager, session):
    with session_context(manager, session):
        s = state.current()
        await manager.terminate(session.key)
        with pytest.raises(state.NoSession, match="ended"):
            await s.update(count)
        with pytest.raises(state.NoSession, match="ended"):
            await s.read()
        with pytest.raises(state.NoSession, match="ended"):
            await asyncio.to_thread(s.update_sync, count)
    assert await manager.find(session.key) is None


async def test_an_unavailable_store_raises_store_unavailable(manager, session, store):
    with session_context(manager, session):
        s = state.current()
        handle = (await state.create()).handle
        await store.__aexit__(None, None, None)
        for attempt in (s.read(), s.update(count), state.create(), state.open(handle)):
            with pytest.raises(SessionError) as raised:
                await attempt
            assert raised.value.code is ErrorCode.STORE_UNAVAILABLE


async def test_a_read_that_ends_late_does_not_replace_a_newer_state(manager, session, store, monkeypatch):
    get, has_read, may_return = store.get, asyncio.Event(), asyncio.Event()

    async def delay_first_get(key):
        found = await get(key)
        if not has_read.is_set():
            has_read.set()
            await may_return.wait()
        return found

    with session_context(manager, session):
        s = state.current()
        monkeypatch.setattr(store, "get", delay_first_get)
        older = asyncio.create_task(s.read())
        async with deadline("the first read has not reached the store"):
            await has_read.wait()
        await s.update(count)
        may_return.set()
        assert await older == {}
        assert s.data == state.current().data == {"n": 1}
