"""The rules of sessions, as a client, an application and an operator meet them."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_tornado.metrics import Metrics
from mcp_tornado.sessions import (
    ClientInfo,
    DuplicateSession,
    RevisionConflict,
    SessionError,
    SessionManager,
    SessionRules,
    StateTooLarge,
    StoreUnavailable,
    session_key,
)
from mcp_tornado.sessions import manager as manager_module
from mcp_tornado.sessions.guard import StoreGuard
from mcp_tornado.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def refused(call):
    with pytest.raises(SessionError) as caught:
        await call
    return caught.value


# Creating and validating


async def test_a_created_session_is_what_was_asked_for(manager, clock, new):
    client = ClientInfo(remote_addr="192.0.2.7", user_agent="agent", name="n", version="v")
    session_id, session = await new(
        manager,
        client=client,
        protocol_version="2025-06-18",
        client_params={"clientInfo": {"name": "n"}},
        principal="someone",
        initialized=True,
    )
    stored = await manager.validate(session_id, principal="someone")
    assert stored == session
    assert (stored.client, stored.protocol_version, stored.principal) == (client, "2025-06-18", "someone")
    assert stored.client_params == {"clientInfo": {"name": "n"}}
    assert stored.initialized
    assert stored.key == session_key(session_id)
    assert stored.created_at == stored.last_seen_at == clock()
    assert (stored.state, tuple(stored.journal), stored.revision) == ({}, (), 0)


async def test_every_session_gets_an_id_of_its_own(manager, new):
    ids = {(await new(manager))[0] for _ in range(100)}
    assert len(ids) == 100
    assert await manager.count() == 100


async def test_creating_is_counted_and_logged_with_the_short_key_and_the_client(manager, new, sample, logs):
    _, session = await new(manager)
    assert sample("sessions_created_total") == 1
    (line,) = logs.events("session.created")
    assert line["session"] == session.key[:8]
    assert line["level"] == "info"
    assert line["client_name"] == "a client"


async def test_validating_reads_the_store_once_and_writes_nothing(manager, new, store):
    session_id, _ = await new(manager)
    store.calls.clear()
    await manager.validate(session_id)
    assert dict(store.calls) == {"get": 1}


@pytest.mark.parametrize("session_id", ["", "a" * 129, "a b", "abc\n", "\x7f", "é"])
async def test_a_malformed_id_is_refused_without_asking_the_store(manager, store, sample, session_id):
    error = await refused(manager.validate(session_id))
    assert (error.code, error.status) == ("SESSION_ID_MALFORMED", 400)
    assert not store.calls
    assert sample("session_validations_total", outcome="malformed") == 1


async def test_an_unknown_id_is_not_found(manager, sample):
    error = await refused(manager.validate("x" * 43))
    assert (error.code, error.status) == ("SESSION_NOT_FOUND", 404)
    assert sample("session_validations_total", outcome="unknown") == 1


async def test_a_key_from_a_dump_of_the_store_logs_nobody_in(manager, new):
    _, session = await new(manager)
    assert (await refused(manager.validate(session.key))).code == "SESSION_NOT_FOUND"


async def test_validations_are_counted_by_outcome(manager, new, sample, clock):
    session_id, _ = await new(manager)
    await manager.validate(session_id)
    await manager.validate(session_id)
    await refused(manager.validate("unknown"))
    clock.advance(1000)
    await refused(manager.validate(session_id))
    assert sample("session_validations_total", outcome="ok") == 2
    assert sample("session_validations_total", outcome="unknown") == 1
    assert sample("session_validations_total", outcome="expired") == 1


@pytest.mark.parametrize(("owner", "caller"), [("one", "two"), ("one", None), (None, "two")])
async def test_another_principals_session_looks_unknown_and_only_the_reason_tells(manager, new, owner, caller):
    session_id, _ = await new(manager, principal=owner)
    others = await refused(manager.validate(session_id, principal=caller))
    unknown = await refused(manager.validate("x" * 43, principal=caller))
    assert others.to_error() == unknown.to_error()
    assert (others.status, others.retry_after) == (unknown.status, unknown.retry_after) == (404, None)
    assert (others.reason, unknown.reason) == ("other_principal", "unknown")
    assert (await manager.validate(session_id, principal=owner)).principal == owner


async def test_another_principal_does_not_learn_that_a_session_has_expired(manager, new, clock):
    session_id, _ = await new(manager, principal="one")
    clock.advance(2000)
    assert (await refused(manager.validate(session_id, principal="two"))).code == "SESSION_NOT_FOUND"
    assert (await refused(manager.validate(session_id, principal="one"))).code == "SESSION_EXPIRED"


# Expiry


async def test_a_session_expires_at_its_expiry_and_not_a_microsecond_before(manager, new, clock):
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


async def test_the_lifetime_ends_a_session_however_busy_it_is(make_manager, new, clock):
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


async def test_a_lifetime_shorter_than_the_idle_timeout_holds_from_the_start(make_manager, new, clock):
    manager = make_manager(idle_timeout=100, lifetime=40)
    _, session = await new(manager)
    assert (session.expires_at - clock()).total_seconds() == 40


async def test_a_lifetime_of_0_means_none(make_manager, new, clock):
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
def test_no_session_ends_before_its_idle_timeout_whatever_the_pattern_of_use(gaps, touch_interval, fresh_clock):
    clock = fresh_clock()

    async def use():
        writes = []
        async with MemoryStore(clock) as store:
            touch = store.touch

            async def watched(key, last_seen_at, expires_at):
                writes.append(clock())
                return await touch(key, last_seen_at, expires_at)

            store.touch = watched
            rules = SessionRules(idle_timeout=100, lifetime=0, touch_interval=touch_interval)
            manager = SessionManager(store, rules, clock=clock, metrics=Metrics("0"))
            session_id, first = await manager.create(
                client=ClientInfo(), protocol_version="2025-11-25", client_params={}
            )
            writes.append(clock())
            stale = any(old for _, old in gaps)
            for gap, old in gaps:
                clock.advance(gap)
                session = await manager.validate(session_id)
                assert await manager.refresh(first if old else session)
            clock.advance(99.999999)
            await manager.validate(session_id)
            clock.advance(min(touch_interval, 10) + 0.000001)
            with pytest.raises(SessionError, match="expired"):
                await manager.validate(session_id)
        if not stale:
            interval = min(touch_interval, 10)
            pauses = [(later - earlier).total_seconds() for earlier, later in pairwise(writes)]
            assert all(pause >= interval for pause in pauses)

    asyncio.run(use())


@pytest.fixture
def fresh_clock(clock):
    return type(clock)


# Refreshing


async def test_refreshing_writes_only_after_the_touch_interval(manager, new, store, clock):
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


async def test_a_busy_session_is_written_once_per_touch_interval(manager, new, store, clock):
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


async def test_keeping_alive_at_the_keepalive_interval_is_often_enough_and_never_a_busy_loop(make_manager):
    assert make_manager(idle_timeout=3600, touch_interval=30).keepalive_interval == 30
    assert make_manager(idle_timeout=3600, touch_interval=0).keepalive_interval == 1
    assert make_manager(idle_timeout=1, touch_interval=0).keepalive_interval == 0.1


async def test_refreshing_is_logged_at_debug_where_it_writes(manager, new, clock, logs):
    _, session = await new(manager)
    await manager.refresh(session)
    assert logs.events("session.refreshed") == []
    clock.advance(10)
    await manager.refresh(session)
    (line,) = logs.events("session.refreshed")
    assert (line["session"], line["level"]) == (session.key[:8], "debug")


async def test_a_process_whose_clock_is_behind_never_shortens_a_session(manager, store, new, clock, metrics):
    session_id, old = await new(manager)
    behind = clock.advance(20)
    clock.advance(30)
    await manager.refresh(await manager.validate(session_id))
    newest = await manager.validate(session_id)
    rules = SessionRules(idle_timeout=100, lifetime=1000, touch_interval=10)
    other = SessionManager(store, rules, clock=lambda: behind, metrics=metrics)
    assert await other.refresh(old), "the session is alive"
    assert await manager.validate(session_id) == newest


# Ending


async def test_an_ended_session_is_gone_for_everybody(manager, new, sample, logs):
    session_id, session = await new(manager)
    assert await manager.terminate(session.key)
    assert (await refused(manager.validate(session_id))).code == "SESSION_NOT_FOUND"
    assert await manager.find(session.key) is None
    assert await manager.count() == 0
    assert sample("sessions_closed_total", reason="deleted") == 1
    (line,) = logs.events("session.terminated")
    assert (line["session"], line["reason"]) == (session.key[:8], "deleted")


async def test_ending_a_session_again_is_no_error_and_counts_once(manager, new, sample, logs):
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


async def test_a_session_that_ends_while_it_is_changed_stays_ended(manager, new, store):
    session_id, session = await new(manager)

    async def end_it():
        await store.inner.delete(session.key)

    store.before["update"] = end_it
    assert (await refused(manager.update_state(session.key, lambda state: state.update(a=1)))).code == (
        "SESSION_NOT_FOUND"
    )
    assert (await refused(manager.validate(session_id))).code == "SESSION_NOT_FOUND"


async def test_a_session_that_ends_while_it_is_refreshed_stays_ended(manager, new, store, clock):
    session_id, session = await new(manager)

    async def end_it():
        await store.inner.delete(session.key)

    store.before["touch"] = end_it
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


# Changing


async def test_state_is_changed_and_its_revision_counted(manager, new):
    session_id, session = await new(manager)
    changed = await manager.update_state(session.key, lambda state: state.update(n=1))
    assert (changed.state, changed.revision) == ({"n": 1}, 1)
    assert (await manager.validate(session_id)) == changed
    changed = await manager.update_state(session.key, lambda state: state.pop("n"))
    assert (changed.state, changed.revision) == ({}, 2)


async def test_fifty_writers_at_once_lose_nothing(manager, new, store):
    session_id, session = await new(manager)

    async def give_way():
        await asyncio.sleep(0)

    store.after["get"] = store.before["update"] = give_way

    def add(number):
        def change(state):
            state["n"] = state.get("n", 0) + 1
            state.setdefault("who", []).append(number)

        return manager.update_state(session.key, change)

    await asyncio.gather(*(add(number) for number in range(50)))
    stored = await manager.validate(session_id)
    assert stored.state["n"] == 50
    assert sorted(stored.state["who"]) == list(range(50))
    assert stored.revision == 50
    assert store.calls["update"] > 50, "there was no conflict, so this proved nothing"


async def test_a_change_from_an_outdated_revision_is_a_conflict_and_changes_nothing(manager, new):
    session_id, session = await new(manager)
    await manager.update_state(session.key, lambda state: state.update(n=1), expected_revision=0)
    error = await refused(manager.update_state(session.key, lambda state: state.update(n=2), expected_revision=0))
    assert (error.code, error.status) == ("SESSION_CONFLICT", 409)
    assert (await manager.validate(session_id)).state == {"n": 1}


async def test_an_expected_revision_lost_between_reading_and_writing_is_a_conflict(manager, new, store):
    session_id, session = await new(manager)

    async def be_faster():
        del store.before["update"]
        await store.inner.update(session.key, {"state": {"n": "faster"}}, 0)

    store.before["update"] = be_faster
    error = await refused(manager.update_state(session.key, lambda state: state.update(n=2), expected_revision=0))
    assert error.code == "SESSION_CONFLICT"
    assert (await manager.validate(session_id)).state == {"n": "faster"}


async def test_of_many_writers_from_one_revision_exactly_one_wins(manager, new, store):
    session_id, session = await new(manager)

    async def give_way():
        await asyncio.sleep(0)

    store.after["get"] = give_way
    calls = [
        manager.update_state(session.key, lambda state, n=n: state.update(n=n), expected_revision=0) for n in range(10)
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    lost = [result for result in results if isinstance(result, SessionError)]
    (won,) = [result for result in results if not isinstance(result, Exception)]
    assert [error.code for error in lost] == ["SESSION_CONFLICT"] * 9
    assert (await manager.validate(session_id)).state == won.state


async def test_a_change_that_never_gets_through_ends_as_a_conflict(manager, new, store):
    session_id, session = await new(manager)
    store.fail("update", RevisionConflict())
    error = await refused(manager.update_state(session.key, lambda state: state.update(n=2)))
    assert (error.code, error.status) == ("SESSION_CONFLICT", 409)
    assert store.calls["update"] >= 50
    assert (await manager.validate(session_id)) == session


async def test_a_change_that_changes_nothing_writes_nothing(manager, new, store):
    _, session = await new(manager)
    store.calls.clear()
    assert (await manager.update(session.key, lambda _: {})).revision == 0
    assert store.writes == 0


async def test_a_change_that_raises_leaves_the_state_alone(manager, new):
    session_id, session = await new(manager)

    def change(state):
        state["n"] = 1
        raise LookupError("the application's own")

    with pytest.raises(LookupError, match="the application's own"):
        await manager.update_state(session.key, change)
    assert await manager.validate(session_id) == session


async def test_changing_the_given_state_later_does_not_change_what_is_stored(manager, new):
    session_id, session = await new(manager)
    kept = []

    def change(state):
        state["list"] = [1]
        kept.append(state)

    changed = await manager.update_state(session.key, change)
    kept[0]["list"].append(2)
    changed.state["list"].append(3)
    assert (await manager.validate(session_id)).state == {"list": [1]}


async def test_state_up_to_the_limit_is_kept_and_a_byte_more_is_refused(make_manager, new):
    manager = make_manager(max_state_bytes=100)
    session_id, session = await new(manager)
    filling = 100 - len('{"a":""}')
    await manager.update_state(session.key, lambda state: state.update(a="x" * filling))
    with pytest.raises(StateTooLarge, match=r"101 bytes.*max_state_bytes.*100"):
        await manager.update_state(session.key, lambda state: state.update(a="x" * (filling + 1)))
    assert (await manager.validate(session_id)).state == {"a": "x" * filling}


async def test_the_size_of_state_counts_bytes_and_not_characters(make_manager, new):
    manager = make_manager(max_state_bytes=100)
    _, session = await new(manager)
    with pytest.raises(StateTooLarge):
        await manager.update_state(session.key, lambda state: state.update(a="ä" * 60))


async def test_what_the_server_keeps_stands_beside_the_state_with_the_same_limit(make_manager, new, store):
    manager = make_manager(max_state_bytes=100)
    session_id, session = await new(manager, server_state={"kept": 1})
    assert session.server_state == {"kept": 1}
    await manager.update_state(session.key, lambda state: state.update(a="x" * 90))
    changed = await manager.update_server_state(session.key, lambda state: state.update(kept="y" * 80))
    with pytest.raises(StateTooLarge):
        await manager.update_server_state(session.key, lambda state: state.update(more="y"))
    await manager.update_state(session.key, dict.clear)
    stored = await manager.validate(session_id)
    assert (stored.state, stored.server_state) == ({}, changed.server_state)
    assert changed.server_state == {"kept": "y" * 80}


# What a server keeps under a name


async def test_what_is_kept_under_a_name_is_found_until_it_is_removed(manager, store):
    client = ClientInfo(remote_addr="192.0.2.1")
    assert await manager.find_named("a name") is None
    for number in range(2):
        await manager.put_named("a name", {"n": number}, client=client, principal="ann")
    await manager.put_named("another", {}, client=client)
    found = await manager.find_named("a name")
    assert (found.state, found.client, found.principal, found.is_handle) == ({"n": 1}, client, "ann", True)
    assert await manager.delete_named("a name") is True
    assert await manager.delete_named("a name") is False
    assert await manager.find_named("a name") is None
    assert await manager.count() == 1


async def test_reading_it_keeps_it_alive_and_writes_only_after_the_touch_interval(manager, store, clock):
    await manager.put_named("a name", {}, client=ClientInfo())
    for _ in range(9):
        clock.advance(5)
        assert await manager.find_named("a name") is not None
    assert store.calls["touch"] == 4
    clock.advance(111)
    assert await manager.find_named("a name") is None


async def test_a_name_whose_record_is_taken_and_gone_in_turn_ends_as_a_conflict(manager, store):
    store.fail("create", DuplicateSession())
    error = await refused(manager.put_named("a name", {}, client=ClientInfo()))
    assert error.code == "SESSION_CONFLICT"


# Caps


async def test_the_cap_on_sessions_is_503_and_says_when_to_try_again(make_manager, new):
    manager = make_manager(max_sessions=2)
    await new(manager)
    await new(manager, principal="someone")
    error = await refused(new(manager))
    assert (error.code, error.status) == ("SESSION_LIMIT_REACHED", 503)
    assert error.retry_after
    assert await manager.count() == 2


async def test_the_cap_per_principal_is_429_and_leaves_others_alone(make_manager, new):
    manager = make_manager(max_per_principal=1)
    await new(manager, principal="one")
    error = await refused(new(manager, principal="one"))
    assert (error.code, error.status) == ("SESSION_LIMIT_REACHED", 429)
    assert error.retry_after
    await new(manager, principal="two")
    for _ in range(3):
        await new(manager)
    assert await manager.count("one") == 1


async def test_an_ended_session_makes_room(make_manager, new):
    manager = make_manager(max_sessions=1, max_per_principal=1)
    _, session = await new(manager, principal="one")
    await manager.terminate(session.key)
    await new(manager, principal="one")


async def test_an_expired_session_makes_room_before_it_is_swept(make_manager, new, clock):
    manager = make_manager(max_sessions=1, max_per_principal=1, idle_timeout=100, touch_interval=10)
    await new(manager, principal="one")
    clock.advance(110)
    await new(manager, principal="one")


async def test_a_cap_of_0_means_none(make_manager, new, store):
    manager = make_manager(max_sessions=0, max_per_principal=0)
    for _ in range(20):
        await new(manager, principal="one")
    assert store.calls["count"] == 0


# When a store fails


def _operations(manager, session_id, session):
    return {
        "create": lambda: manager.create(client=ClientInfo(), protocol_version="2025-11-25", client_params={}),
        "get": lambda: manager.validate(session_id),
        "touch": lambda: manager.refresh(session),
        "update": lambda: manager.update_state(session.key, lambda state: state.update(a=1)),
        "delete": lambda: manager.terminate(session.key),
        "sweep": lambda: manager.cleanup(),
        "count": lambda: manager.count(),
        "page": lambda: manager.page(),
        "ping": lambda: manager.ping(),
    }


OPERATIONS = list(_operations(None, None, None))


@pytest.mark.parametrize("failure", [StoreUnavailable("secret-host"), ConnectionResetError("secret-host")])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_failing_store_is_unavailable_counted_and_logged(
    manager, new, store, clock, sample, logs, operation, failure
):
    session_id, session = await new(manager)
    clock.advance(50)
    store.fail(operation, failure)
    error = await refused(_operations(manager, session_id, session)[operation]())
    assert (error.code, error.status) == ("STORE_UNAVAILABLE", 503)
    assert error.retry_after
    assert "secret-host" not in json.dumps(error.to_error())
    assert sample("store_errors_total", operation=operation) == 1
    (line,) = logs.events("store.error")
    assert (line["operation"], line["level"]) == (operation, "error")


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "sweep"])
async def test_a_store_that_does_not_answer_in_time_is_unavailable(
    manager, new, store, clock, sample, monkeypatch, operation
):
    session_id, session = await new(manager)
    clock.advance(50)
    monkeypatch.setitem(StoreGuard.run.__kwdefaults__, "limit", 0.01)
    store.before[operation] = asyncio.Event().wait
    error = await refused(_operations(manager, session_id, session)[operation]())
    assert (error.code, error.status) == ("STORE_UNAVAILABLE", 503)
    assert sample("store_errors_total", operation=operation) == 1


async def test_a_sweep_that_does_not_come_back_is_unavailable(manager, store, sample, monkeypatch):
    monkeypatch.setattr(manager_module, "_SWEEP_LIMIT", 0.01)
    store.before["sweep"] = asyncio.Event().wait
    assert (await refused(manager.cleanup())).code == "STORE_UNAVAILABLE"
    assert sample("store_errors_total", operation="sweep") == 1


async def test_a_failed_validation_is_counted_as_such_and_no_session_is_lost(manager, new, store, sample):
    session_id, session = await new(manager)
    store.fail("get", StoreUnavailable())
    await refused(manager.validate(session_id))
    assert sample("session_validations_total", outcome="store_unavailable") == 1
    assert sample("session_validations_total", outcome="ok") == 0
    store.before.clear()
    assert await manager.validate(session_id) == session


async def test_a_conflict_or_a_duplicate_is_no_failure_of_the_store(manager, new, store, sample, logs):
    _, session = await new(manager)
    await manager.update_state(session.key, lambda state: state.update(a=1))
    await refused(manager.update_state(session.key, lambda state: state.update(a=2), expected_revision=0))
    assert sample("store_errors_total", operation="update") == 0
    assert logs.events("store.error") == []


async def test_every_store_operation_is_measured(manager, new, store, clock, sample):
    session_id, session = await new(manager)
    clock.advance(50)
    operations = _operations(manager, session_id, session)
    for name in ("create", "get", "touch", "update", "count", "page", "ping", "sweep", "delete"):
        before = sample("store_operation_duration_seconds_count", operation=name)
        await operations[name]()
        assert sample("store_operation_duration_seconds_count", operation=name) > before


async def test_a_fault_in_a_store_is_counted_and_not_taken_for_an_outage(manager, store, sample):
    store.fail("get", ZeroDivisionError("a fault"))
    with pytest.raises(ZeroDivisionError):
        await manager.validate("x" * 43)
    assert sample("store_errors_total", operation="get") == 1


async def test_a_taken_key_is_tried_again_with_another_id(manager, new, store, monkeypatch):
    session_id, session = await new(manager)
    ids = iter([session_id, session_id, "another"])
    monkeypatch.setattr(manager_module, "new_session_id", lambda: next(ids))
    other_id, _ = await new(manager)
    assert other_id == "another"
    assert await manager.validate(session_id) == session


async def test_an_id_that_was_made_before_is_used_or_refused(manager, new):
    made = manager.new_id()
    session_id, session = await new(manager, session_id=made)
    assert (session_id, session.key) == (made, session_key(made))
    assert (await refused(new(manager, session_id=made))).code == "SESSION_CREATION_FAILED"
    assert await manager.validate(made) == session


async def test_keys_that_stay_taken_end_in_creation_failed(manager, store, new, sample):
    store.fail("create", DuplicateSession())
    error = await refused(new(manager))
    assert (error.code, error.status) == ("SESSION_CREATION_FAILED", 500)
    assert 2 <= store.calls["create"] <= 10
    assert sample("sessions_created_total") == 0


async def test_an_operating_system_without_random_numbers_ends_in_creation_failed(manager, new, store, monkeypatch):
    def no_entropy():
        raise NotImplementedError("/dev/urandom (or equivalent) not found")

    monkeypatch.setattr(manager_module, "new_session_id", no_entropy)
    error = await refused(new(manager))
    assert (error.code, error.status) == ("SESSION_CREATION_FAILED", 500)
    with pytest.raises(SessionError):
        manager.new_id()
    assert store.calls["create"] == 0


# Sweeping and listing


async def test_cleanup_removes_what_has_expired_and_nothing_else(manager, new, clock, sample, store):
    expired = [(await new(manager))[1] for _ in range(3)]
    clock.advance(60)
    live_id, live = await new(manager)
    clock.advance(50)
    assert await manager.cleanup() == 3
    assert [await store.inner.get(session.key) for session in expired] == [None] * 3
    assert await manager.validate(live_id) == live
    assert sample("sessions_closed_total", reason="expired") == 3
    assert await manager.cleanup() == 0
    assert sample("sessions_closed_total", reason="expired") == 3


async def test_cleanup_goes_on_until_everything_expired_is_gone(manager, new, clock, monkeypatch, store, sample):
    monkeypatch.setattr(manager_module, "_SWEEP_BATCH", 10)
    for _ in range(35):
        await new(manager)
    clock.advance(110)
    assert await manager.cleanup() == 35
    assert sample("sessions_closed_total", reason="expired") == 35
    assert store.calls["sweep"] == 4


async def test_cleanup_lets_others_run_between_its_batches(manager, new, clock, monkeypatch, store):
    monkeypatch.setattr(manager_module, "_SWEEP_BATCH", 1)
    for _ in range(20):
        await new(manager)
    clock.advance(110)
    left = []
    sweeping = asyncio.create_task(manager.cleanup())
    while not sweeping.done():
        await asyncio.sleep(0)
        left.append(len(store.inner._records))
    assert await sweeping == 20
    assert len(set(left)) > 10, "it was seen at work"


async def test_what_a_failed_cleanup_removed_is_counted(manager, new, clock, monkeypatch, store, sample):
    monkeypatch.setattr(manager_module, "_SWEEP_BATCH", 10)
    for _ in range(15):
        await new(manager)
    clock.advance(110)

    async def fail_next_time():
        store.fail("sweep", StoreUnavailable())

    store.after["sweep"] = fail_next_time
    assert (await refused(manager.cleanup())).code == "STORE_UNAVAILABLE"
    assert sample("sessions_closed_total", reason="expired") == 10


async def test_counting_and_listing_leave_out_what_has_ended_or_expired(manager, new, clock):
    await new(manager, principal="one")
    clock.advance(60)
    _, ended = await new(manager, principal="one")
    kept = [(await new(manager, principal=who))[1] for who in ("one", "two", None)]
    await manager.terminate(ended.key)
    clock.advance(50)
    assert await manager.count() == 3
    assert (await manager.count("one"), await manager.count("two"), await manager.count("nobody")) == (1, 1, 0)
    assert await manager.page() == sorted(kept, key=lambda session: session.key)


async def test_pages_follow_each_other_in_key_order(manager, new):
    keys = sorted([(await new(manager))[1].key for _ in range(7)])
    first = await manager.page(limit=3)
    second = await manager.page(first[-1].key, 3)
    third = await manager.page(second[-1].key, 3)
    assert [session.key for session in [*first, *second, *third]] == keys
    assert len(third) == 1
    assert await manager.page(third[-1].key, 3) == []
