"""State that a tool keeps, without a server around it."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace

import anyio
import pytest
from tornado.httputil import HTTPHeaders

from mcp_tornado import state
from mcp_tornado.hosting import InboundRequest
from mcp_tornado.hosting.context import session_context, sessionless_context
from mcp_tornado.kernel import HANDSHAKE_VERSIONS, STATELESS_VERSIONS
from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import (
    ClientInfo,
    ErrorCode,
    RevisionConflict,
    SessionError,
    SessionManager,
    SessionRules,
    session_key,
)
from mcp_tornado.sessions.model import HANDLE_VERSION
from mcp_tornado.stores.memory import MemoryStore
from mcp_tornado.testing import FakeClock

pytestmark = pytest.mark.anyio

INBOUND = InboundRequest(
    method="POST",
    scheme="http",
    host="127.0.0.1",
    path="/mcp",
    query="",
    raw_headers=HTTPHeaders({"User-Agent": "a browser"}),
    remote_addr="192.0.2.1",
)


@pytest.fixture
async def store(anyio_backend, clock):
    async with MemoryStore(clock) as store:
        yield store


async def new_session(manager, principal=None):
    return await manager.create(
        client=ClientInfo(name="a client"), protocol_version="2025-11-25", client_params={}, principal=principal
    )


@pytest.fixture
async def session(manager):
    return (await new_session(manager))[1]


def count(data):
    data["n"] = data.get("n", 0) + 1


# ---------------------------------------------------------------- where there is a session, and where not


async def test_outside_of_any_request_there_is_no_state():
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


async def test_a_request_without_a_session_has_none_and_is_told_what_to_do(manager):
    with sessionless_context(manager, INBOUND), pytest.raises(state.NoSession, match=r"state\.create"):
        state.current()


async def test_a_task_that_a_handler_starts_has_its_state_and_nobody_else(manager, session):
    async def handle():
        return await state.current().update(count)

    with session_context(manager, session):
        task = asyncio.create_task(handle())
    with pytest.raises(state.NoSession):
        state.current()
    assert await task == {"n": 1}


# ---------------------------------------------------------------- reading and changing


async def test_the_data_is_a_snapshot(manager, session):
    with session_context(manager, session):
        s = state.current()
        await s.update(lambda data: data.update(cart=["tea"]))
        s.data["cart"].append("milk")
        s.data["more"] = True
        assert s.data == {"cart": ["tea"]}
        assert await s.read() == {"cart": ["tea"]}
        (await s.read())["cart"].append("milk")
        assert s.data == {"cart": ["tea"]}


async def test_an_update_returns_the_new_data_and_the_request_sees_it_from_then_on(manager, session):
    with session_context(manager, session):
        assert state.current().data == {}
        assert await state.current().update(count) == {"n": 1}
        assert state.current().data == {"n": 1}
        assert await state.current().update(count) == {"n": 2}


async def test_what_another_process_stored_is_read_and_built_upon(manager, make_manager, session):
    other = make_manager()
    with session_context(manager, session):
        s = state.current()
        await other.update_state(session.key, count)
        assert s.data == {}
        assert await s.read() == {"n": 1}
        assert s.data == {"n": 1}
        await other.update_state(session.key, count)
        assert await s.update(count) == {"n": 3}


async def test_what_the_function_returns_is_ignored(manager, session):
    with session_context(manager, session):
        assert await state.current().update(lambda data: {"not": "this"}) == {}
        assert await state.current().update(lambda data: data.setdefault("a", 1)) == {"a": 1}


async def test_an_exception_in_the_function_passes_through_and_nothing_is_stored(manager, session):
    def fail(data):
        data["n"] = 99
        raise LookupError("an accident")

    with session_context(manager, session):
        s = state.current()
        await s.update(count)
        with pytest.raises(LookupError, match="an accident"):
            await s.update(fail)
        assert s.data == await s.read() == {"n": 1}


async def test_the_function_is_called_again_where_somebody_was_faster(manager, session, store, monkeypatch):
    seen = []
    update, rivals = store.update, [1, 2]

    async def late(key, changes, expected_revision):
        if rivals:
            await update(key, {"state": {"n": 10 * rivals.pop(0)}}, expected_revision)
            raise RevisionConflict
        return await update(key, changes, expected_revision)

    def watched(data):
        seen.append(data.get("n", 0))
        count(data)

    monkeypatch.setattr(store, "update", late)
    with session_context(manager, session):
        assert await state.current().update(watched) == {"n": 21}
    assert seen == [0, 10, 20]


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


async def test_what_is_no_json_is_refused_and_changes_nothing(manager, session):
    with session_context(manager, session):
        with pytest.raises(TypeError):
            await state.current().update(lambda data: data.update(when=object()))
        assert await state.current().read() == {}


async def test_a_session_that_has_ended_meanwhile_is_said_to_have_ended(manager, session):
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


async def test_a_store_that_is_away_is_said_to_be(manager, session, store):
    with session_context(manager, session):
        s = state.current()
        handle = (await state.create()).handle
        await store.__aexit__(None, None, None)
        for attempt in (s.read(), s.update(count), state.create(), state.open(handle)):
            with pytest.raises(SessionError) as raised:
                await attempt
            assert raised.value.code is ErrorCode.STORE_UNAVAILABLE


async def test_of_two_reads_at_once_the_newer_state_stays(manager, session, store, monkeypatch):
    get, slow, held = store.get, asyncio.Event(), []

    async def late(key):
        found = await get(key)
        if not held:
            held.append(found)
            await slow.wait()
        return found

    with session_context(manager, session):
        s = state.current()
        monkeypatch.setattr(store, "get", late)
        older = asyncio.create_task(s.read())
        while not held:
            await asyncio.sleep(0)
        await s.update(count)
        slow.set()
        assert await older == {}
        assert s.data == state.current().data == {"n": 1}


# ---------------------------------------------------------------- from threads


@pytest.mark.parametrize("run", [asyncio.to_thread, anyio.to_thread.run_sync])
async def test_a_plain_function_in_a_thread_reads_and_changes(manager, session, run):
    def tool():
        s = state.current()
        assert s.update_sync(count) == {"n": 1}
        assert s.read_sync() == s.data == state.current().data == {"n": 1}

    with session_context(manager, session):
        await run(tool)
        assert await state.current().read() == {"n": 1}


async def test_a_plain_function_in_a_thread_makes_and_opens_a_state(manager):
    def tool():
        made = state.create_sync()
        made.update_sync(count)
        return state.open_sync(made.handle).data

    with sessionless_context(manager, INBOUND):
        assert await asyncio.to_thread(tool) == {"n": 1}


async def test_many_threads_at_once_lose_nothing(manager, session):
    with session_context(manager, session):
        s = state.current()
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(asyncio.to_thread(s.update_sync, count))
        assert await s.read() == {"n": 50}


async def test_an_exception_reaches_the_thread(manager, session):
    def fail(data):
        raise LookupError("an accident")

    with session_context(manager, session), pytest.raises(LookupError, match="an accident"):
        await asyncio.to_thread(state.current().update_sync, fail)


async def test_a_thread_without_the_context_may_be_given_the_state(manager, session):
    results = []
    with session_context(manager, session):
        s = state.current()

    def run():
        with pytest.raises(state.NoSession):
            state.current()
        results.append(s.update_sync(count))

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert results == [{"n": 1}]


async def test_on_the_event_loop_itself_the_blocking_ones_say_so_instead_of_hanging(manager, session):
    with session_context(manager, session):
        s = state.current()
        handle = (await state.create()).handle
        for attempt in (lambda: s.update_sync(count), s.read_sync, state.create_sync, lambda: state.open_sync(handle)):
            with pytest.raises(RuntimeError, match="await"):
                attempt()
        with pytest.raises(RuntimeError, match="await"):
            await s.update(lambda data: s.update_sync(count))
        assert await s.read() == {}
        assert await manager.count() == 2


async def state_of_a_process_that_ends():
    clock = FakeClock()
    async with MemoryStore(clock) as store:
        manager = SessionManager(store, SessionRules(), clock=clock, metrics=Metrics("1"))
        _, session = await new_session(manager)
        with session_context(manager, session):
            return state.current()


def test_a_thread_that_outlives_the_event_loop_is_told_so():
    s = asyncio.run(state_of_a_process_that_ends())
    with pytest.raises(RuntimeError, match="closed"):
        s.update_sync(count)


def test_a_thread_does_not_wait_for_an_event_loop_that_ends_before_it_answers(monkeypatch):
    monkeypatch.setattr(state, "_LOOP_CHECK", 0.01)
    handed_over, raised = threading.Event(), []
    loop = asyncio.new_event_loop()
    s = loop.run_until_complete(state_of_a_process_that_ends())
    call_soon = loop.call_soon_threadsafe

    def watched(*arguments, **named):
        call_soon(*arguments, **named)
        handed_over.set()

    def run():
        try:
            s.update_sync(count)
        except RuntimeError as error:
            raised.append(str(error))

    monkeypatch.setattr(loop, "call_soon_threadsafe", watched)
    thread = threading.Thread(target=run)
    thread.start()
    handed_over.wait()
    loop.close()
    thread.join()
    assert raised == ["the event loop was closed meanwhile"]


# ---------------------------------------------------------------- behind a handle


async def test_a_state_is_made_in_one_request_and_opened_in_another(manager, make_manager):
    with sessionless_context(manager, INBOUND):
        made = await state.create()
        assert made.data == {}
        assert await made.update(count) == {"n": 1}
    with sessionless_context(make_manager(), INBOUND):
        opened = await state.open(made.handle)
        assert opened.data == {"n": 1}
        assert opened.handle == made.handle
        assert await opened.update(count) == {"n": 2}
        assert await made.read() == {"n": 2}


async def test_a_request_with_a_session_may_have_states_behind_handles_too(manager, session):
    with session_context(manager, session):
        made = await state.create()
        await made.update(count)
        assert (await state.open(made.handle)).data == {"n": 1}
        assert state.current().data == await state.current().read() == {}
        assert state.current().handle is None


async def test_handles_are_as_hard_to_guess_as_session_ids_and_the_store_has_only_their_hash(manager, store):
    with sessionless_context(manager, INBOUND):
        handles = {(await state.create()).handle for _ in range(100)}
    assert {len(handle) for handle in handles} == {43}
    kept = await store.page(None, 200)
    assert {session.key for session in kept} == {session_key(handle) for handle in handles}
    dump = str([session.to_dict() for session in kept])
    assert not any(handle in dump for handle in handles)


async def test_the_record_behind_a_handle_says_who_made_it(manager, store):
    with sessionless_context(manager, INBOUND):
        await state.create()
    (record,) = await store.page(None, 10)
    assert record.client == ClientInfo(remote_addr="192.0.2.1", user_agent="a browser")


@pytest.mark.parametrize("handle", ["x" * 43, "", "a b", "tea\n", "ä", "x" * 129, None, 7, ["x"]])
async def test_what_is_no_handle_is_not_found(manager, handle):
    with sessionless_context(manager, INBOUND):
        with pytest.raises(state.StateNotFound) as raised:
            await state.open(handle)
        with pytest.raises(state.StateNotFound):
            await asyncio.to_thread(state.open_sync, handle)
    assert "x" * 43 not in str(raised.value)


async def test_an_expired_state_is_not_found_and_cannot_be_changed(manager, clock):
    with sessionless_context(manager, INBOUND):
        made = await state.create()
        clock.advance(109.999)
        assert await made.read() == {}
        clock.advance(0.001)
        with pytest.raises(state.StateNotFound):
            await state.open(made.handle)
        with pytest.raises(state.StateNotFound):
            await made.read()
        with pytest.raises(state.StateNotFound):
            await made.update(count)


async def test_opening_keeps_a_state_alive_until_its_lifetime_ends(manager, clock):
    with sessionless_context(manager, INBOUND):
        handle = (await state.create()).handle
        for _ in range(9):
            clock.advance(100)
            await state.open(handle)
        clock.advance(100)
        with pytest.raises(state.StateNotFound):
            await state.open(handle)


async def test_opening_writes_only_after_the_touch_interval(manager, clock, store, monkeypatch):
    touches = []
    touch = store.touch

    async def counted(*arguments):
        touches.append(arguments)
        return await touch(*arguments)

    monkeypatch.setattr(store, "touch", counted)
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
    async def gone(*arguments):
        await store.delete(arguments[0])
        return False

    with sessionless_context(manager, INBOUND):
        handle = (await state.create()).handle
        clock.advance(10)
        monkeypatch.setattr(store, "touch", gone)
        with pytest.raises(state.StateNotFound):
            await state.open(handle)


@pytest.mark.parametrize(("owner", "caller"), [("ann", "bob"), ("ann", None), (None, "bob")])
async def test_another_principals_state_is_not_found(manager, owner, caller):
    _, owners = await new_session(manager, owner)
    _, callers = await new_session(manager, caller)
    with session_context(manager, owners):
        made = await state.create()
        await made.update(count)
    with session_context(manager, callers), pytest.raises(state.StateNotFound):
        await state.open(made.handle)
    with session_context(manager, owners):
        assert (await state.open(made.handle)).data == {"n": 1}


async def test_a_session_is_no_state_and_a_state_is_no_session(manager, session):
    session_id, _ = await new_session(manager)
    with sessionless_context(manager, INBOUND):
        handle = (await state.create()).handle
        with pytest.raises(state.StateNotFound):
            await state.open(session_id)
    with pytest.raises(SessionError) as raised:
        await manager.validate(handle)
    assert raised.value.code is ErrorCode.SESSION_NOT_FOUND
    assert (await manager.validate(session_id)).state == {}


def test_no_session_can_be_of_the_revision_that_marks_a_state():
    assert HANDLE_VERSION in STATELESS_VERSIONS
    assert HANDLE_VERSION not in HANDSHAKE_VERSIONS


async def test_states_count_as_sessions(make_manager):
    manager = make_manager(max_sessions=1)
    with sessionless_context(manager, INBOUND):
        await state.create()
        with pytest.raises(SessionError) as raised:
            await state.create()
    assert raised.value.code is ErrorCode.SESSION_LIMIT_REACHED


async def test_states_count_for_their_principal(make_manager):
    manager = make_manager(max_per_principal=2)
    _, session = await new_session(manager, "ann")
    with session_context(manager, session):
        await state.create()
        with pytest.raises(SessionError) as raised:
            await state.create()
    assert raised.value.status == 429


async def test_the_state_behind_a_handle_has_the_same_limit(make_manager):
    with sessionless_context(make_manager(max_state_bytes=20), INBOUND):
        s = await state.create()
        with pytest.raises(state.StateTooLarge):
            await s.update(lambda data: data.update(a="x" * 13))
        assert await s.read() == {}


async def test_no_handle_is_logged_and_states_are_told_from_sessions(manager, session, clock, logs):
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


async def test_a_refreshed_record_is_still_no_session(manager, store, clock):
    with sessionless_context(manager, INBOUND):
        handle = (await state.create()).handle
        clock.advance(20)
        await (await state.open(handle)).update(count)
    record = await store.get(session_key(handle))
    assert record.is_handle
    assert not replace(record, protocol_version="2025-11-25").is_handle
