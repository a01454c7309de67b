"""The state of a handle."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from mcp_tornado import state
from mcp_tornado.hosting.context import session_context, sessionless_context
from mcp_tornado.kernel import HANDSHAKE_VERSIONS, STATELESS_VERSIONS
from mcp_tornado.sessions import ClientInfo, ErrorCode, SessionError, session_key
from mcp_tornado.sessions.model import HANDLE_VERSION
from tests.state.helpers import INBOUND, count, new_session

pytestmark = pytest.mark.anyio


async def test_a_state_is_created_in_one_request_and_opened_in_another(manager, make_manager):
    with sessionless_context(manager, INBOUND):
        created = await state.create()
        assert created.data == {}
        assert await created.update(count) == {"n": 1}
    with sessionless_context(make_manager(), INBOUND):
        opened = await state.open(created.handle)
        assert opened.data == {"n": 1}
        assert opened.handle == created.handle
        assert await opened.update(count) == {"n": 2}
        assert await created.read() == {"n": 2}


async def test_a_request_with_a_session_can_use_handles_too(manager, session):
    with session_context(manager, session):
        created = await state.create()
        await created.update(count)
        assert (await state.open(created.handle)).data == {"n": 1}
        assert state.current().data == await state.current().read() == {}
        assert state.current().handle is None


async def test_a_handle_is_like_a_session_id_and_the_store_has_only_its_hash(manager, store):
    with sessionless_context(manager, INBOUND):
        handles = {(await state.create()).handle for _ in range(100)}
    assert {len(handle) for handle in handles} == {43}
    records = await store.page(None, 200)
    assert {session.key for session in records} == {session_key(handle) for handle in handles}
    dump = str([session.to_dict() for session in records])
    assert not any(handle in dump for handle in handles)


async def test_the_record_of_a_handle_names_the_client_that_created_it(manager, store):
    with sessionless_context(manager, INBOUND):
        await state.create()
    (record,) = await store.page(None, 10)
    assert record.client == ClientInfo(remote_addr="192.0.2.1", user_agent="a browser")


@pytest.mark.parametrize("handle", ["x" * 43, "", "a b", "tea\n", "ä", "x" * 129, None, 7, ["x"]])
async def test_a_value_that_is_no_handle_is_not_found(manager, handle):
    with sessionless_context(manager, INBOUND):
        with pytest.raises(state.StateNotFound) as raised:
            await state.open(handle)
        with pytest.raises(state.StateNotFound):
            await asyncio.to_thread(state.open_sync, handle)
    assert "x" * 43 not in str(raised.value)


async def test_an_expired_state_is_not_found_and_cannot_be_changed(manager, clock):
    with sessionless_context(manager, INBOUND):
        created = await state.create()
        clock.advance(109.999)
        assert await created.read() == {}
        clock.advance(0.001)
        with pytest.raises(state.StateNotFound):
            await state.open(created.handle)
        with pytest.raises(state.StateNotFound):
            await created.read()
        with pytest.raises(state.StateNotFound):
            await created.update(count)


async def test_opening_a_state_keeps_it_alive_until_its_lifetime_ends(manager, clock):
    with sessionless_context(manager, INBOUND):
        handle = (await state.create()).handle
        for _ in range(9):
            clock.advance(100)
            await state.open(handle)
        clock.advance(100)
        with pytest.raises(state.StateNotFound):
            await state.open(handle)


async def test_opening_a_state_writes_only_after_the_touch_interval(manager, clock, store, monkeypatch):
    touches = []
    touch = store.touch

    async def note_touch(*arguments):
        touches.append(arguments)
        return await touch(*arguments)

    monkeypatch.setattr(store, "touch", note_touch)
    with sessionless_context(manager, INBOUND):
        handle = (await state.create()).handle
        clock.advance(9)
        await state.open(handle)
        assert len(touches) == 0
        clock.advance(1)
        await state.open(handle)
        await state.open(handle)
        assert len(touches) == 1


async def test_a_state_that_ends_while_it_is_opened_is_not_found(manager, clock, store, monkeypatch):
    async def delete_instead(*arguments):
        await store.delete(arguments[0])
        return False

    with sessionless_context(manager, INBOUND):
        handle = (await state.create()).handle
        clock.advance(10)
        monkeypatch.setattr(store, "touch", delete_instead)
        with pytest.raises(state.StateNotFound):
            await state.open(handle)


@pytest.mark.parametrize(("owner", "caller"), [("ann", "bob"), ("ann", None), (None, "bob")])
async def test_another_principals_state_is_not_found(manager, owner, caller):
    _, owners = await new_session(manager, owner)
    _, callers = await new_session(manager, caller)
    with session_context(manager, owners):
        created = await state.create()
        await created.update(count)
    with session_context(manager, callers), pytest.raises(state.StateNotFound):
        await state.open(created.handle)
    with session_context(manager, owners):
        assert (await state.open(created.handle)).data == {"n": 1}


async def test_a_session_id_is_no_handle_and_a_handle_is_no_session_id(manager, session):
    session_id, _ = await new_session(manager)
    with sessionless_context(manager, INBOUND):
        handle = (await state.create()).handle
        with pytest.raises(state.StateNotFound):
            await state.open(session_id)
    with pytest.raises(SessionError) as raised:
        await manager.validate(handle)
    assert raised.value.code is ErrorCode.SESSION_NOT_FOUND
    assert (await manager.validate(session_id)).state == {}


def test_no_session_can_have_the_revision_that_marks_a_handle():
    assert HANDLE_VERSION in STATELESS_VERSIONS
    assert HANDLE_VERSION not in HANDSHAKE_VERSIONS


async def test_handles_count_as_sessions(make_manager):
    manager = make_manager(max_sessions=1)
    with sessionless_context(manager, INBOUND):
        await state.create()
        with pytest.raises(SessionError) as raised:
            await state.create()
    assert raised.value.code is ErrorCode.SESSION_LIMIT_REACHED


async def test_handles_count_for_their_principal(make_manager):
    manager = make_manager(max_per_principal=2)
    _, session = await new_session(manager, "ann")
    with session_context(manager, session):
        await state.create()
        with pytest.raises(SessionError) as raised:
            await state.create()
    assert raised.value.status == 429


async def test_the_state_of_a_handle_has_the_same_limit_of_size(make_manager):
    with sessionless_context(make_manager(max_state_bytes=20), INBOUND):
        s = await state.create()
        with pytest.raises(state.StateTooLarge):
            await s.update(lambda data: data.update(a="x" * 13))
        assert await s.read() == {}


async def test_handles_are_not_logged_and_the_log_tells_states_from_sessions(manager, session, clock, logs):
    with session_context(manager, session):
        s = await state.create()
        await s.update(count)
        clock.advance(20)
        await state.open(s.handle)
        await new_session(manager)
    with pytest.raises(SessionError):
        await manager.validate(s.handle)
    lines = [json.loads(line) for line in logs.getvalue().splitlines()]
    created = [line for line in lines if line["event"] == "session.created"]
    assert [line["kind"] for line in created] == ["state", "session"]
    assert created[0]["session"] == session_key(s.handle)[:8]
    assert s.handle not in logs.getvalue()
    assert s.handle not in f"{s!r} {s}"
    assert session_key(s.handle) not in logs.getvalue()


async def test_a_refreshed_record_is_still_that_of_a_handle(manager, store, clock):
    with sessionless_context(manager, INBOUND):
        handle = (await state.create()).handle
        clock.advance(20)
        await (await state.open(handle)).update(count)
    record = await store.get(session_key(handle))
    assert record.is_handle
    assert not replace(record, protocol_version="2025-11-25").is_handle
