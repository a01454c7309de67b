"""Open, closed, shared and unavailable logs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pytest

from mcp_tornado.sessions.errors import StoreUnavailable, StreamEnded
from mcp_tornado.sessions.store import EventId
from mcp_tornado.testing.base import (
    KEY,
    NO_OUTAGE,
    OTHER,
    EventStore,
    MakeSession,
    MakeStore,
    Pair,
    deadline,
    let_tasks_start,
    run_turns,
    wait_until_available,
)
from mcp_tornado.testing.events.base import EventLogFixtures, fill, follow, numbers

OPERATIONS: Final[dict[str, Callable[[EventStore], Coroutine[Any, Any, Any]]]] = {
    "append": lambda store: store.append("@p", "s", {}),
    "read": lambda store: store.read("@p", None),
    "wait": lambda store: store.wait("@q", None, 0),
    "claim": lambda store: store.claim("lease", "owner", 1),
    "release": lambda store: store.release("lease", "owner"),
}


class LogAvailabilityContract(EventLogFixtures):
    """A log is unavailable while it is closed or out of reach, and works again afterwards."""

    async def test_events_and_leases_are_there_after_closing_if_the_store_is_shared(
        self, make_store: MakeStore, make_session: MakeSession, anyio_backend: str
    ) -> None:
        store: Any = make_store()
        async with store:
            await store.create(make_session())
            for key in (KEY, "@p"):
                await fill(store, 3, key=key)
            await store.append(KEY, "a", {"n": 4}, final=True)
            await store.claim("lease", "me", 10)
        if not store.shared:
            return
        store = make_store()
        async with store:
            assert await numbers(store) == [1, 2, 3, 4]
            assert await numbers(store, key="@p") == [1, 2, 3]
            with pytest.raises(StreamEnded):
                await store.append(KEY, "a", {"n": 5})
            assert EventId.parse(await store.append(KEY, "b", {"n": 5})) == EventId.of(5, KEY, "b")
            assert await store.claim("lease", "you", 10) is False

    async def test_an_operation_on_events_that_is_given_up_harms_no_other(self, log: EventStore) -> None:
        """The answer to a cancelled operation must not be taken for the answer to the next one."""
        await fill(log, 3)
        await fill(log, 2, key=OTHER)
        async with deadline("an operation after a cancelled one has not ended"):
            for turns in range(20):
                cancelled = [
                    asyncio.ensure_future(call)
                    for call in (log.read(KEY, None), log.claim("lease", "me", 10), log.wait(KEY, None, 0))
                ]
                await run_turns(turns)
                for task in cancelled:
                    task.cancel()
                assert await numbers(log, key=OTHER) == [1, 2]
                assert await numbers(log) == [1, 2, 3]
                await asyncio.gather(*cancelled, return_exceptions=True)

    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_a_log_that_was_not_entered_or_is_closed_is_unavailable(
        self, make_store: MakeStore, anyio_backend: str, operation: str
    ) -> None:
        store: Any = make_store()
        with pytest.raises(StoreUnavailable):
            await OPERATIONS[operation](store)
        async with store:
            await OPERATIONS[operation](store)
        with pytest.raises(StoreUnavailable):
            await OPERATIONS[operation](store)

    async def test_a_log_out_of_reach_is_unavailable_in_bounded_time_and_wakes_waiters_again_afterwards(
        self, logs: Pair, outage: AbstractAsyncContextManager[object] | None
    ) -> None:
        if outage is None:
            pytest.skip(NO_OUTAGE)
        (first,) = await fill(logs.one, 1)
        async with outage:
            async with deadline("an operation has not ended during the outage"):
                results: list[object] = await asyncio.gather(
                    *(operation(logs.one) for operation in OPERATIONS.values()), return_exceptions=True
                )
            assert {name: type(result) for name, result in zip(OPERATIONS, results, strict=True)} == dict.fromkeys(
                OPERATIONS, StoreUnavailable
            )
        for log in logs:
            await wait_until_available(log.ping)
        assert await numbers(logs.two) == [1]
        async with deadline("the follower has not read all events after the outage"):
            following = asyncio.ensure_future(follow(logs.one, KEY, 6, limit=10))
            await let_tasks_start(logs.one)
            for number in range(2, 7):
                await logs.two.append(KEY, "get", {"n": number})
            assert [event.message for event in await following] == [{"n": number} for number in range(1, 7)]
        assert await numbers(logs.one, first) == [2, 3, 4, 5, 6]
