"""The id of a session appears in HTTP and nowhere else."""

from __future__ import annotations

import asyncio
import gc
import types

import pytest

from mcp_tornado.sessions import SessionError, StoreUnavailable, new_session_id

pytestmark = pytest.mark.anyio

_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType, types.CodeType)
_NO_DATA = (*_CODE, asyncio.AbstractEventLoop)


def everything_in(thing):
    """Return every text and every byte string that can be reached from an object."""
    found, seen, to_visit = [], set(), [thing]
    while to_visit:
        current = to_visit.pop()
        if id(current) in seen or isinstance(current, _NO_DATA):
            continue
        seen.add(id(current))
        if isinstance(current, str):
            found.append(current)
        elif isinstance(current, bytes):
            found.append(current.decode("latin-1"))
        else:
            to_visit += gc.get_referents(current)
    return found


@pytest.fixture
async def used(manager, store, clock, new):
    """The ids and the keys of sessions that went through every operation, and the errors of refused ids."""
    ids, keys = [], []

    async def rejected(session_id, **options):
        with pytest.raises(SessionError) as caught:
            await manager.validate(session_id, **options)
        return caught.value

    errors = []
    for principal in (None, "someone"):
        session_id, session = await new(manager, principal=principal)
        ids.append(session_id)
        keys.append(session.key)
        await manager.validate(session_id, principal=principal)
        errors.append(await rejected(session_id, principal="another"))
        clock.advance(20)
        await manager.refresh(session)
        await manager.update_state(session.key, lambda state: state.update(n=1))
        await store.inner.append(session.key, "GET", {"jsonrpc": "2.0", "method": "x"})
        await store.inner.claim(f"lease {session.key}", "process", 10)
    unknown = new_session_id()
    errors.append(await rejected(unknown))
    malformed = new_session_id() + " \x1b[31m"
    errors.append(await rejected(malformed))
    store.fail("get", StoreUnavailable())
    errors.append(await rejected(ids[0]))
    store.before.clear()
    ended_id, ended = await new(manager)
    await manager.terminate(ended.key)
    errors.append(await rejected(ended_id))
    return [*ids, ended_id, unknown, malformed, new_session_id()], [*keys, ended.key], errors


async def test_no_id_is_anywhere_in_the_store(logs, used, store):
    ids, keys, _ = used
    texts = everything_in(store.inner)
    assert any(keys[0] in text for text in texts), "the walk reaches the data of the store"
    assert any("192.0.2.1" in text for text in texts), "the walk reaches the payloads"
    assert [session_id for session_id in ids for text in texts if session_id in text] == []


async def test_no_id_and_no_whole_key_is_in_the_log(logs, used):
    ids, keys, _ = used
    assert {"session.created", "session.terminated", "session.refreshed", "store.error"} <= {
        line["event"] for line in logs.events()
    }
    assert keys[0][:8] in logs.text
    assert [secret for secret in [*ids, *keys] if secret in logs.text] == []
    assert [key for key in keys if key[:9] in logs.text] == []


async def test_no_id_and_no_key_is_in_the_metrics(logs, used, metrics):
    ids, keys, _ = used
    rendered = metrics.render().decode()
    assert "mcp_tornado_sessions_created_total 3.0" in rendered
    assert [secret for secret in [*ids, *(key[:8] for key in keys)] if secret in rendered] == []


async def test_no_id_and_no_key_is_in_an_error(logs, used):
    ids, keys, errors = used
    assert len(errors) == 6
    for error in errors:
        text = repr(error.to_error()) + str(error) + repr(error) + str(error.reason)
        assert [secret for secret in [*ids, *(key[:8] for key in keys)] if secret in text] == []


async def test_an_ended_session_leaves_nothing_in_the_store(logs, used, store):
    _, keys, _ = used
    assert not any(keys[-1] in text for text in everything_in(store.inner))
