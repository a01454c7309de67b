"""Creating sessions."""

from __future__ import annotations

import pytest

from mcp_tornado.sessions import ClientInfo, DuplicateSession, SessionError, session_key
from mcp_tornado.sessions import manager as manager_module
from tests.sessions.helpers import refused

pytestmark = pytest.mark.anyio


async def test_a_created_session_has_the_given_fields(manager, clock, new):
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


async def test_every_session_gets_a_different_id(manager, new):
    ids = {(await new(manager))[0] for _ in range(100)}
    assert len(ids) == 100
    assert await manager.count() == 100


async def test_a_creation_is_counted_and_logged_with_the_short_key_and_the_client(manager, new, sample, logs):
    _, session = await new(manager)
    assert sample("sessions_created_total") == 1
    (line,) = logs.events("session.created")
    assert line["session"] == session.key[:8]
    assert line["level"] == "info"
    assert line["client_name"] == "a client"


async def test_a_creation_is_retried_with_another_id_if_the_key_is_taken(manager, new, store, monkeypatch):
    session_id, session = await new(manager)
    ids = iter([session_id, session_id, "another"])
    monkeypatch.setattr(manager_module, "new_session_id", lambda: next(ids))
    other_id, _ = await new(manager)
    assert other_id == "another"
    assert await manager.validate(session_id) == session


async def test_a_given_id_is_used_once_and_then_refused(manager, new):
    given = manager.new_id()
    session_id, session = await new(manager, session_id=given)
    assert (session_id, session.key) == (given, session_key(given))
    assert (await refused(new(manager, session_id=given))).code == "SESSION_CREATION_FAILED"
    assert await manager.validate(given) == session


async def test_a_creation_fails_if_every_key_is_taken(manager, store, new, sample):
    store.fail("create", DuplicateSession())
    error = await refused(new(manager))
    assert (error.code, error.status) == ("SESSION_CREATION_FAILED", 500)
    assert 2 <= store.calls["create"] <= 10
    assert sample("sessions_created_total") == 0


async def test_a_creation_fails_without_a_source_of_random_numbers(manager, new, store, monkeypatch):
    def no_entropy():
        raise NotImplementedError("/dev/urandom (or equivalent) not found")

    monkeypatch.setattr(manager_module, "new_session_id", no_entropy)
    error = await refused(new(manager))
    assert (error.code, error.status) == ("SESSION_CREATION_FAILED", 500)
    with pytest.raises(SessionError):
        manager.new_id()
    assert store.calls["create"] == 0
