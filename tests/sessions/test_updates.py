"""Changing sessions by compare-and-set."""

from __future__ import annotations

import asyncio

import pytest

from mcp_tornado.sessions import RevisionConflict, SessionError, StateTooLarge
from tests.sessions.helpers import refused

pytestmark = pytest.mark.anyio


async def test_an_update_changes_the_state_and_counts_the_revision(manager, new):
    session_id, session = await new(manager)
    changed = await manager.update_state(session.key, lambda state: state.update(n=1))
    assert (changed.state, changed.revision) == ({"n": 1}, 1)
    assert (await manager.validate(session_id)) == changed
    changed = await manager.update_state(session.key, lambda state: state.pop("n"))
    assert (changed.state, changed.revision) == ({}, 2)


async def test_fifty_concurrent_updates_are_all_applied(manager, new, store):
    session_id, session = await new(manager)

    async def yield_to_the_event_loop():
        await asyncio.sleep(0)

    store.after["get"] = store.before["update"] = yield_to_the_event_loop

    def add(number):
        def change(state):
            state["n"] = state.get("n", 0) + 1
            state.setdefault("writers", []).append(number)

        return manager.update_state(session.key, change)

    await asyncio.gather(*(add(number) for number in range(50)))
    stored = await manager.validate(session_id)
    assert stored.state["n"] == 50
    assert sorted(stored.state["writers"]) == list(range(50))
    assert stored.revision == 50
    assert store.calls["update"] > 50, "without a conflict the test shows nothing"


async def test_an_update_from_an_outdated_revision_is_a_conflict_and_changes_nothing(manager, new):
    session_id, session = await new(manager)
    await manager.update_state(session.key, lambda state: state.update(n=1), expected_revision=0)
    error = await refused(manager.update_state(session.key, lambda state: state.update(n=2), expected_revision=0))
    assert (error.code, error.status) == ("SESSION_CONFLICT", 409)
    assert (await manager.validate(session_id)).state == {"n": 1}


async def test_an_update_with_an_expected_revision_conflicts_with_an_update_after_its_read(manager, new, store):
    session_id, session = await new(manager)

    async def update_first():
        del store.before["update"]
        await store.inner.update(session.key, {"state": {"n": "first"}}, 0)

    store.before["update"] = update_first
    error = await refused(manager.update_state(session.key, lambda state: state.update(n=2), expected_revision=0))
    assert error.code == "SESSION_CONFLICT"
    assert (await manager.validate(session_id)).state == {"n": "first"}


async def test_exactly_one_of_many_updates_from_one_revision_succeeds(manager, new, store):
    session_id, session = await new(manager)

    async def yield_to_the_event_loop():
        await asyncio.sleep(0)

    store.after["get"] = yield_to_the_event_loop
    calls = [
        manager.update_state(session.key, lambda state, n=n: state.update(n=n), expected_revision=0) for n in range(10)
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, SessionError)]
    (stored,) = [result for result in results if not isinstance(result, Exception)]
    assert [error.code for error in errors] == ["SESSION_CONFLICT"] * 9
    assert (await manager.validate(session_id)).state == stored.state


async def test_an_update_that_always_conflicts_ends_as_a_conflict(manager, new, store):
    session_id, session = await new(manager)
    store.fail("update", RevisionConflict())
    error = await refused(manager.update_state(session.key, lambda state: state.update(n=2)))
    assert (error.code, error.status) == ("SESSION_CONFLICT", 409)
    assert store.calls["update"] >= 50
    assert (await manager.validate(session_id)) == session


async def test_an_update_without_changes_writes_nothing(manager, new, store):
    _, session = await new(manager)
    store.calls.clear()
    assert (await manager.update(session.key, lambda _: {})).revision == 0
    assert store.writes == 0


async def test_an_update_whose_function_raises_does_not_change_the_state(manager, new):
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


async def test_a_state_up_to_the_limit_is_stored_and_one_byte_more_is_refused(make_manager, new):
    manager = make_manager(max_state_bytes=100)
    session_id, session = await new(manager)
    filling = 100 - len('{"a":""}')
    await manager.update_state(session.key, lambda state: state.update(a="x" * filling))
    with pytest.raises(StateTooLarge, match=r"101 bytes.*max_state_bytes.*100"):
        await manager.update_state(session.key, lambda state: state.update(a="x" * (filling + 1)))
    assert (await manager.validate(session_id)).state == {"a": "x" * filling}


async def test_the_size_of_a_state_counts_bytes_and_not_characters(make_manager, new):
    manager = make_manager(max_state_bytes=100)
    _, session = await new(manager)
    with pytest.raises(StateTooLarge):
        await manager.update_state(session.key, lambda state: state.update(a="ä" * 60))


async def test_the_server_state_is_separate_from_the_state_and_has_the_same_limit(make_manager, new, store):
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
