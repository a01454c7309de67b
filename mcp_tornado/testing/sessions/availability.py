"""Open, closed, shared and unavailable stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final

import pytest

from mcp_tornado.sessions.errors import StoreUnavailable
from mcp_tornado.sessions.model import Session
from mcp_tornado.sessions.store import SessionStore
from mcp_tornado.testing.base import (
    KEY,
    NO_OUTAGE,
    OTHER,
    MakeSession,
    MakeStore,
    OpenStore,
    StoreContract,
    deadline,
    keys_of,
    let_tasks_start,
    run_turns,
    seconds,
    wait_until_available,
)
from mcp_tornado.testing.clock import FakeClock

OPERATIONS: Final[dict[str, Callable[[SessionStore, Session, datetime], Coroutine[Any, Any, Any]]]] = {
    "create": lambda store, session, now: store.create(session),
    "get": lambda store, session, now: store.get(session.key),
    "touch": lambda store, session, now: store.touch(session.key, now, now),
    "update": lambda store, session, now: store.update(session.key, {}, 0),
    "delete": lambda store, session, now: store.delete(session.key),
    "sweep": lambda store, session, now: store.sweep(now, 1),
    "count": lambda store, session, now: store.count(),
    "page": lambda store, session, now: store.page(None, 1),
    "ping": lambda store, session, now: store.ping(),
}


class AvailabilityContract(StoreContract):
    """A store is unavailable while it is closed or out of reach, and works again afterwards."""

    async def test_stores_on_the_same_data_see_the_same_sessions_if_the_store_says_so(
        self, store: SessionStore, open_store: OpenStore, make_session: MakeSession, clock: FakeClock
    ) -> None:
        """This is what `shared` promises. A store that is not shared passes without a check."""
        if not type(store).shared:
            return
        await store.create(make_session())
        other: SessionStore = await open_store()
        assert await store.get(KEY) == await other.get(KEY) is not None
        assert await other.touch(KEY, clock(), clock() + seconds(300))
        assert await other.update(KEY, {"state": {"by": "other"}}, 0) is not None
        assert await store.get(KEY) == await other.get(KEY)
        await other.create(make_session(key=OTHER, principal="one"))
        assert (await store.count(), await store.count("one"), await keys_of(store)) == (2, 1, [KEY, OTHER])
        assert await store.delete(OTHER) is True
        assert await other.get(OTHER) is None

    async def test_what_was_stored_is_there_after_closing_if_the_store_is_shared(
        self, make_store: MakeStore, make_session: MakeSession, anyio_backend: str
    ) -> None:
        session = make_session()
        async with make_store() as store:
            await store.create(session)
        if type(store).shared:
            async with make_store() as store:
                assert await store.get(KEY) == session

    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_a_store_that_was_not_entered_or_is_closed_is_unavailable(
        self, make_store: MakeStore, make_session: MakeSession, clock: FakeClock, anyio_backend: str, operation: str
    ) -> None:
        store = make_store()
        with pytest.raises(StoreUnavailable):
            await OPERATIONS[operation](store, make_session(), clock())
        async with store as entered:
            assert entered is store
            await OPERATIONS[operation](store, make_session(), clock())
        with pytest.raises(StoreUnavailable):
            await OPERATIONS[operation](store, make_session(), clock())

    async def test_an_open_store_answers(self, store: SessionStore) -> None:
        await store.ping()

    async def test_an_operation_that_is_given_up_harms_no_other(
        self, store: SessionStore, make_session: MakeSession
    ) -> None:
        """The answer to a cancelled operation must not be taken for the answer to the next one."""
        keys = [f"key-{number}" for number in range(5)]
        sessions = [make_session(key=key, state={"key": key}) for key in keys]
        for session in sessions:
            await store.create(session)
        async with deadline("an operation after a cancelled one has not ended"):
            for turns in range(20):
                cancelled = [asyncio.ensure_future(call) for call in (store.get(keys[0]), store.count(), store.ping())]
                await run_turns(turns)
                for task in cancelled:
                    task.cancel()
                assert await asyncio.gather(*(store.get(key) for key in keys)) == sessions
                await asyncio.gather(*cancelled, return_exceptions=True)
            assert await store.page(None, 10) == sessions
            assert await store.count() == len(keys)

    async def test_a_store_out_of_reach_is_unavailable_in_bounded_time_and_works_again_afterwards(
        self,
        store: SessionStore,
        make_session: MakeSession,
        clock: FakeClock,
        outage: AbstractAsyncContextManager[object] | None,
    ) -> None:
        if outage is None:
            pytest.skip(NO_OUTAGE)
        session = make_session()
        await store.create(session)
        async with outage:
            async with deadline("an operation has not ended during the outage"):
                results: list[object] = await asyncio.gather(
                    *(operation(store, make_session(key=OTHER), clock()) for operation in OPERATIONS.values()),
                    return_exceptions=True,
                )
            assert {name: type(result) for name, result in zip(OPERATIONS, results, strict=True)} == dict.fromkeys(
                OPERATIONS, StoreUnavailable
            )
        await wait_until_available(store.ping)
        assert await store.get(KEY) == session
        assert await store.touch(KEY, clock(), clock() + seconds(200))
        await store.create(make_session(key="key-0003"))
        assert await keys_of(store, after=OTHER) == ["key-0003"]

    async def test_a_store_out_of_reach_cannot_be_entered(
        self, make_store: MakeStore, outage: AbstractAsyncContextManager[object] | None, anyio_backend: str
    ) -> None:
        if outage is None:
            pytest.skip(NO_OUTAGE)
        async with outage, deadline("entering the store has not ended during the outage"):
            with pytest.raises(StoreUnavailable):
                await make_store().__aenter__()
        store = make_store()
        await wait_until_available(store.__aenter__)
        await let_tasks_start(store)
        await store.__aexit__(None, None, None)
