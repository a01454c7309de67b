"""`claim` and `release`."""

from __future__ import annotations

import asyncio

from mcp_tornado.testing.base import EventStore, Pair, StoreContract
from mcp_tornado.testing.clock import FakeClock


class LeaseContract(StoreContract):
    """A lease has at most one owner at a time."""

    async def test_a_lease_has_one_owner_who_may_renew_it(self, pair: Pair) -> None:
        assert await pair.one.claim("lease", "me", 10) is True
        assert await pair.two.claim("lease", "you", 10) is False
        assert await pair.two.claim("lease", "me", 10) is True
        assert await pair.one.claim("another lease", "you", 10) is True

    async def test_of_many_who_claim_a_lease_one_gets_it(self, pair: Pair) -> None:
        results = await asyncio.gather(
            *(pair[number % 2].claim("lease", f"owner-{number}", 10) for number in range(20))
        )
        assert results.count(True) == 1

    async def test_of_many_who_claim_a_lease_that_has_ended_one_gets_it(self, pair: Pair, clock: FakeClock) -> None:
        await pair.one.claim("lease", "before", 10)
        clock.advance(10)
        results = await asyncio.gather(
            *(pair[number % 2].claim("lease", f"owner-{number}", 10) for number in range(20))
        )
        assert results.count(True) == 1

    async def test_a_lease_ends_with_its_time_and_not_before(self, pair: Pair, clock: FakeClock) -> None:
        await pair.one.claim("lease", "me", 10)
        clock.advance(9.999999)
        assert await pair.two.claim("lease", "you", 10) is False
        clock.advance(microseconds=1)
        assert await pair.two.claim("lease", "you", 10) is True
        assert await pair.one.claim("lease", "me", 10) is False

    async def test_a_renewed_lease_lasts_from_then_on(self, store: EventStore, clock: FakeClock) -> None:
        await store.claim("lease", "me", 10)
        clock.advance(9)
        await store.claim("lease", "me", 10)
        clock.advance(9)
        assert await store.claim("lease", "you", 10) is False
        clock.advance(1)
        assert await store.claim("lease", "you", 10) is True

    async def test_a_renewed_lease_may_last_less_long_than_before(self, store: EventStore, clock: FakeClock) -> None:
        await store.claim("lease", "me", 1000)
        await store.claim("lease", "me", 1.5)
        clock.advance(1.499999)
        assert await store.claim("lease", "you", 10) is False
        clock.advance(microseconds=1)
        assert await store.claim("lease", "you", 10) is True

    async def test_a_released_lease_is_free(self, pair: Pair) -> None:
        await pair.one.claim("lease", "me", 10)
        await pair.one.release("lease", "me")
        assert await pair.two.claim("lease", "you", 10) is True

    async def test_only_its_owner_can_release_a_lease_and_trying_is_no_error(self, pair: Pair) -> None:
        await pair.one.claim("lease", "me", 10)
        await pair.two.release("lease", "you")
        await pair.two.release("no such lease", "you")
        assert await pair.two.claim("lease", "you", 10) is False

    async def test_who_lost_a_lease_cannot_release_it_for_the_new_owner(
        self, store: EventStore, clock: FakeClock
    ) -> None:
        await store.claim("lease", "me", 10)
        clock.advance(10)
        await store.claim("lease", "you", 10)
        await store.release("lease", "me")
        assert await store.claim("lease", "me", 10) is False

    async def test_a_sweep_leaves_leases_that_last(self, store: EventStore, clock: FakeClock) -> None:
        await store.claim("lease", "me", 10)
        clock.advance(9)
        await store.sweep(clock(), 10)
        assert await store.claim("lease", "you", 10) is False
