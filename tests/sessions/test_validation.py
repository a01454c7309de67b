"""Validating session ids."""

from __future__ import annotations

import pytest

from tests.sessions.helpers import refused

pytestmark = pytest.mark.anyio


async def test_a_validation_reads_the_store_once_and_writes_nothing(manager, new, store):
    session_id, _ = await new(manager)
    store.calls.clear()
    await manager.validate(session_id)
    assert dict(store.calls) == {"get": 1}


@pytest.mark.parametrize("session_id", ["", "a" * 129, "a b", "abc\n", "\x7f", "é"])
async def test_a_malformed_id_is_refused_without_a_read_of_the_store(manager, store, sample, session_id):
    error = await refused(manager.validate(session_id))
    assert (error.code, error.status) == ("SESSION_ID_MALFORMED", 400)
    assert not store.calls
    assert sample("session_validations_total", outcome="malformed") == 1


async def test_an_unknown_id_is_not_found(manager, sample):
    error = await refused(manager.validate("x" * 43))
    assert (error.code, error.status) == ("SESSION_NOT_FOUND", 404)
    assert sample("session_validations_total", outcome="unknown") == 1


async def test_the_key_of_a_session_is_not_accepted_as_its_id(manager, new):
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
async def test_another_principals_session_gets_the_error_of_an_unknown_one_with_its_own_reason(
    manager, new, owner, caller
):
    session_id, _ = await new(manager, principal=owner)
    others = await refused(manager.validate(session_id, principal=caller))
    unknown = await refused(manager.validate("x" * 43, principal=caller))
    assert others.to_error() == unknown.to_error()
    assert (others.status, others.retry_after) == (unknown.status, unknown.retry_after) == (404, None)
    assert (others.reason, unknown.reason) == ("other_principal", "unknown")
    assert (await manager.validate(session_id, principal=owner)).principal == owner


async def test_another_principals_expired_session_is_not_found(manager, new, clock):
    session_id, _ = await new(manager, principal="one")
    clock.advance(2000)
    assert (await refused(manager.validate(session_id, principal="two"))).code == "SESSION_NOT_FOUND"
    assert (await refused(manager.validate(session_id, principal="one"))).code == "SESSION_EXPIRED"
