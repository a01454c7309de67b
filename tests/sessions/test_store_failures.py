"""Failures of the store."""

from __future__ import annotations

import asyncio
import json

import pytest

from mcp_tornado.sessions import ClientInfo, StoreUnavailable
from mcp_tornado.sessions import manager as manager_module
from mcp_tornado.sessions.guard import StoreGuard
from tests.sessions.helpers import refused

pytestmark = pytest.mark.anyio


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
    monkeypatch.setitem(StoreGuard.run.__kwdefaults__, "timeout", 0.01)
    store.before[operation] = asyncio.Event().wait
    error = await refused(_operations(manager, session_id, session)[operation]())
    assert (error.code, error.status) == ("STORE_UNAVAILABLE", 503)
    assert sample("store_errors_total", operation=operation) == 1


async def test_a_sweep_that_does_not_answer_in_time_is_unavailable(manager, store, sample, monkeypatch):
    monkeypatch.setattr(manager_module, "_SWEEP_TIMEOUT_SECONDS", 0.01)
    store.before["sweep"] = asyncio.Event().wait
    assert (await refused(manager.cleanup())).code == "STORE_UNAVAILABLE"
    assert sample("store_errors_total", operation="sweep") == 1


async def test_a_failed_validation_is_counted_as_store_unavailable_and_no_session_is_lost(manager, new, store, sample):
    session_id, session = await new(manager)
    store.fail("get", StoreUnavailable())
    await refused(manager.validate(session_id))
    assert sample("session_validations_total", outcome="store_unavailable") == 1
    assert sample("session_validations_total", outcome="ok") == 0
    store.before.clear()
    assert await manager.validate(session_id) == session


async def test_a_conflict_does_not_count_as_a_failure_of_the_store(manager, new, store, sample, logs):
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


async def test_an_unexpected_exception_of_a_store_is_counted_and_reaches_the_caller(manager, store, sample):
    store.fail("get", ZeroDivisionError("unexpected"))
    with pytest.raises(ZeroDivisionError):
        await manager.validate("x" * 43)
    assert sample("store_errors_total", operation="get") == 1
